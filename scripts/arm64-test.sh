#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto for arm64 on this machine: cross-builds it, compares the eBPF objects in the programs of both architectures, and
# runs `version`, `serve` and `check` under qemu-user, which translates the program and its system calls. qemu-user has no
# bpf(2): seals of an arm64 kernel are not tested here. Under a minute; not part of scripts/test.sh.
#
#   sudo ./scripts/arm64-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-containers.sh
. scripts/lib-release.sh

# compare_objects: both programs contain the committed objects, byte by byte.
compare_objects() {
	local objects
	mapfile -t objects < <(find intercept -name '*_bpfel.o' | sort)
	python3 - "$work/sotto-amd64" "$work/sotto-arm64" "${objects[@]}" <<-'END' || die "the programs have different eBPF objects"
		import hashlib, sys
		programs = [open(p, "rb").read() for p in sys.argv[1:3]]
		objects = sys.argv[3:]
		assert objects, "no objects"
		for path in objects:
		    data = open(path, "rb").read()
		    assert all(data in p for p in programs), path
		    print("   %s: %d bytes, sha256 %s, in both programs" % (path, len(data), hashlib.sha256(data).hexdigest()[:16]))
	END
}

# emulated ARG…: runs the arm64 program.
emulated() { "$qemu" "$work/sotto-arm64" "$@"; }

test_serve() {
	local serve
	say "serve, over UDP and TCP"
	"$qemu" "$work/sotto-arm64" serve --listen 127.0.0.1:5300 --upstream $UPSTREAM --ca-file "$work/ca.pem" --control "$work/control.sock" >"$work/serve.log" 2>&1 &
	serve=$!
	wait_for 60 "an answer (see $work/serve.log)" dig +time=2 +tries=1 -p 5300 @127.0.0.1 ready.example
	expect_answer "UDP" dig +notcp -p 5300 @127.0.0.1 arm64-udp.example A
	expect_answer "TCP" dig +tcp -p 5300 @127.0.0.1 arm64-tcp.example A
	emulated status --ready --control "$work/control.sock" || die "status --ready fails"
	emulated status --control "$work/control.sock" | sed -n '1s/^/   /p'
	kill -TERM $serve
	wait $serve || { cat "$work/serve.log" >&2 && die "serve exited with an error"; }
}

# test_check: check runs to its end, finds the upstream, and reports that this "kernel" has no eBPF.
test_check() {
	local status=0
	say "check"
	printf 'upstream = ["%s"]\nca-file = "%s"\n' "$UPSTREAM" "$work/ca.pem" >"$work/sotto.toml"
	emulated check --json --config "$work/sotto.toml" >"$work/check.json" 2>"$work/check.log" || status=$?
	python3 - "$work/check.json" <<-'END' || { cat "$work/check.json" "$work/check.log" >&2 && die "check is wrong"; }
		import json, sys
		got = {r["name"].split()[0]: r["state"] for r in json.load(open(sys.argv[1]))["results"]}
		print("  ", ", ".join("%s %s" % kv for kv in got.items()))
		assert got["configuration"] == got["upstream"] == "ok" and got["kernel"] == "failed", got
	END
	[[ $status != 0 ]] || die "check succeeds without eBPF"
	note "exit status $status"
}

inside() {
	work=$1 qemu=$2
	make_lan
	say "version"
	note "$(emulated version)"
	[[ $(emulated version) == *linux/arm64* ]] || die "the program is not for arm64"
	test_serve
	test_check
}

if [[ ${1:-} == inside ]]; then
	inside "$2" "$3"
	exit
fi
need_root
install_missing "${container_packages[@]}" "python3 python3"
ensure_go
work=$(mktemp -d /var/tmp/sotto-arm64.XXXXXX)
defer rm -rf --one-file-system "$work"
build
say "build for amd64 and arm64"
build_release arm64-test amd64 "$work/sotto-amd64"
build_release arm64-test arm64 "$work/sotto-arm64"
note "$(file -b "$work/sotto-arm64" 2>/dev/null || echo arm64), $(stat -c %s "$work/sotto-arm64" | numfmt --to=iec) bytes"
say "eBPF objects"
compare_objects
if ! qemu=$(type -P qemu-aarch64-static || type -P qemu-aarch64); then
	if apt_has qemu-user-static; then apt_install qemu-user-static; elif apt_has qemu-user; then apt_install qemu-user; fi
	qemu=$(type -P qemu-aarch64-static || type -P qemu-aarch64) || { say "SKIPPED version, serve, check: no package qemu-user here" && exit 0; }
fi
sandbox_pid bash "$0" inside "$work" "$qemu"
say "arm64-test: passed in $SECONDS s"
