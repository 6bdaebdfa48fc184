#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Called by the units of the offline LAN in a guest: see lib-guest.sh.
#
#   vagrant-lan.sh up     creates the LAN and captures its packets, until stopped
#   vagrant-lan.sh ask    queries its nameserver from early in the boot
#   vagrant-lan.sh check  fails if a query was not sealed since the boot
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-guest.sh

case ${1:-} in
up) lan_up ;;
ask) lan_ask ;;
check) lan_booted ;;
*) die "usage: $0 up | ask | check" ;;
esac
