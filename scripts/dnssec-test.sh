#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compares the DNSSEC validation of `sotto serve` with unbound and BIND on about 3,300 questions: zones of every algorithm,
# with mistakes, and hostile ones, signed by dnssec-signzone, ldns-signzone and kzonesign under a root of their own, and
# served by nsd, knot and BIND. Also: delv, dig and systemd-resolved through `sotto exec`, and the cost of validation. It
# takes about eight minutes, and runs in isolated namespaces.
#
#   sudo ./scripts/dnssec-test.sh [NAME OF A TEST]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

packages=(
	"dnssec-signzone bind9-utils"
	"named bind9"
	"delv bind9-dnsutils"
	"ldns-signzone ldnsutils"
	"kzonesign knot-dnssecutils"
	"knotd knot"
	"nsd nsd"
	"unbound unbound"
	"dnsperf dnsperf"
	"ip iproute2"
)

need_root
install_missing "${packages[@]}"
ensure_go
work=$(mktemp -d)
defer rm -rf "$work"
if [[ ! -x /lib/systemd/systemd-resolved && -z ${SOTTO_RESOLVED:-} ]]; then
	fetch_resolved "$work/resolved"
	export SOTTO_RESOLVED=$work/resolved
fi
say "zones are signed, then the servers start"
export SOTTO_DNSSEC_COMPARE=1
sandbox go test -count=1 -timeout 30m -v -run "${1:-.}" ./internal/e2e/dnssec
say "dnssec-test: passed in $SECONDS s"
