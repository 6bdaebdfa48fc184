#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto on other kernels: boots Debian's cloud kernels in QEMU, each with an initramfs that contains Sotto, the tests
# that depend on the kernel, and real DNS clients and resolvers. Runs `sotto demo`, `sotto exec`, `sotto run` on the root
# cgroup, and the tests, also those that seal the whole host. The guest has no network device. Half an hour per kernel under
# software emulation; not part of scripts/test.sh.
#
#   sudo ./scripts/vm-test.sh [--arch amd64|arm64] [--record] [SUITE…]      default: all suites in the list below
#
#   --record               update docs/kernels.json and the table in README.md, which are generated from the results
#
#   SOTTO_VM_ACCEL=tcg     accelerator of QEMU: tcg (software emulation) works everywhere; kvm is faster where available
#   SOTTO_VM_JOBS=2        number of guests at a time; default: the number of CPUs
#   SOTTO_VM_SECONDS=7200  time limit per guest
#   SOTTO_VM_PARTS=WORDS   parts to run, see below; default: all
#   SOTTO_VM_TESTS=WORDS   for debugging: run only the tests of these packages, PACKAGE or PACKAGE:REGEXP, in one guest
#   SOTTO_VM_PATIENCE=4    by how much tests wait longer than usual; more on a busy machine
#   SOTTO_VM_JAVA=1        with Java as a client, which takes long to start under emulation
#   SOTTO_VM_CACHE=DIR     keep downloaded packages there
#   SOTTO_MIRROR=URL       where Debian's packages come from
#
# Each kernel is booted once per part. Prints the results of each, and a table. The exit status is 1 if a kernel failed or a
# suite had none. If a suite no longer has the kernel series listed, its newest kernel is tested, and the output names the
# series that was not. The serial console log of a guest that failed is saved in /var/tmp.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-vm.sh

# Suite, its kernel series at the time of writing, and other suites (with their archive) that may have it.
suites=(
	"bullseye 5.10 bullseye-security:debian-security"
	"bookworm 6.1"
	"bookworm-backports 6.12"
	"trixie-backports 6.19"
	"forky 7"
)

# What a guest runs: a part's name, its packages. The part host also runs the steps of scripts/vm-guest.sh. PACKAGE:1/3 is
# every third test of a package, from the first on.
parts=(
	"host intercept/feature internal/netns internal/netlab internal/capture internal/demo internal/pathtest internal/nssockets cmd/sotto:^TestConfined$"
	"intercept-1 intercept:1/4"
	"intercept-2 intercept:2/4"
	"intercept-3 intercept:3/4"
	"intercept-4 intercept:4/4"
	"below intercept/attached intercept/cgroup intercept/drops intercept/filters intercept/guard intercept/hits intercept/local intercept/nat intercept/network intercept/others intercept/pins intercept/sockets intercept/spaces"
	"run-1 internal/e2e/run:1/2"
	"run-2 internal/e2e/run:2/2"
	"exec internal/e2e/exec internal/e2e/resolve internal/e2e/trace internal/e2e/hits"
	"takeover internal/e2e/takeover"
	"check internal/e2e/check internal/e2e/path"
	"local internal/e2e/local:^Test(Local|Exec) internal/e2e/groups"
	"whole internal/e2e/local:^TestWholeHost(Redirect|Excluded)?$"
	"load internal/e2e/local:^TestWholeHostLoad$"
	"kills internal/e2e/local:^TestWholeHostKills$"
)

# Tests that no guest runs, as REASON=REGEXP.
excluded=(
	"emulation does not reach the rate of queries that they need=^(TestFloodFromContainer|TestSpoofFromContainer)$"
	"it compares answers with BIND and unbound, and the kernel has no part in them=^TestCompare(DNS64|Rebinding)$"
	"pasta needs pivot_root(2), which an initramfs does not permit=^TestUserModeNetworking$/^pasta"
)

packages=(
	"/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring"
	"cpio cpio"
	"depmod kmod"
	"xz xz-utils"
	"zstd zstd"
	"/usr/include/stdio.h libc6-dev"
)

arch=amd64 record='' wanted=()
while [[ $# -gt 0 ]]; do
	case $1 in
	--arch) arch=${2:?} && shift ;;
	--record) record=1 ;;
	-*) die "unknown flag $1; see the head of this script" ;;
	*) wanted+=("$1") ;;
	esac
	shift
done
[[ ${#wanted[@]} -gt 0 ]] || wanted=("${suites[@]%% *}")
for suite in "${wanted[@]}"; do
	[[ " ${suites[*]%% *} " == *" $suite "* ]] || die "unknown suite $suite; available: ${suites[*]%% *}"
done
[[ -z $record || -z ${SOTTO_VM_TESTS:-} ]] || die "--record needs whole parts: use SOTTO_VM_PARTS instead of SOTTO_VM_TESTS"
# tested_commit: the commit of the tree, with -dirty if more is changed than what --record writes.
tested_commit() {
	local id dirty=""
	id=$(git rev-parse --short HEAD 2>/dev/null) || { echo unknown && return; }
	git diff --quiet HEAD -- . ':(exclude)README.md' ':(exclude)docs/kernels.json' || dirty=-dirty
	echo "$id$dirty"
}

need_root
accel=${SOTTO_VM_ACCEL:-tcg}
limit=${SOTTO_VM_SECONDS:-7200}
jobs=${SOTTO_VM_JOBS:-$(nproc)}
mirror=${SOTTO_MIRROR:-http://deb.debian.org/debian}
case $arch in
amd64) cc=x86_64-linux-gnu-gcc qemu=qemu-system-x86_64 && packages+=("$qemu qemu-system-x86" "$cc gcc") ;;
arm64) cc=aarch64-linux-gnu-gcc qemu=qemu-system-aarch64 && packages+=("$qemu qemu-system-arm" "$cc gcc-aarch64-linux-gnu" "/usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross") ;;
*) die "unknown architecture $arch: use amd64 or arm64" ;;
esac
[[ $arch == "$(dpkg --print-architecture)" || $accel == tcg ]] || die "$accel cannot run $arch on this machine: use SOTTO_VM_ACCEL=tcg"

# ---- one guest -------------------------------------------------------------------------------------------

# part_packages PART: prints the packages of a part, or of all.
part_packages() {
	local part
	for part in "${parts[@]}"; do
		[[ -n ${1:-} && ${part%% *} != "$1" ]] || printf '%s\n' "${part#* }"
	done | tr ' ' '\n'
}

# put_steps PART DIRECTORY: writes what the guest runs: lines with the step "seal", or a package and which tests. Copies the
# tests.
put_steps() {
	local word words=() name
	mapfile -t words < <(if [[ $1 == custom ]]; then printf '%s\n' "${custom[@]}"; else part_packages "$1"; fi)
	[[ $1 != host ]] || echo seal >"$2/steps"
	mkdir "$2/tests"
	for word in "${words[@]}"; do
		name=${word%%:*}
		echo "$name $([[ $word != *:* ]] || echo "${word#*:}")" >>"$2/steps"
		cp -l "$work/tests/${name//\//-}" "$2/tests/"
	done
	printf '%s\n' "${excluded[@]#*=}" | paste -sd'|' | tr -d '\n' >"$2/skip"
}

# start_guest SUITE PART: boots the kernel, with its console in $work/SUITE-PART.log. Sets pid.
start_guest() {
	local dir=$work/boot-$1-$2 how=$accel append machine=() memory=1536
	# A busy machine may stop the guest's CPUs for a while: a lockup is one of two minutes.
	append="sotto.patience=${SOTTO_VM_PATIENCE:-4} panic=-1 softlockup_panic=1 watchdog_thresh=60 softlockup_all_cpu_backtrace=1 mitigations=off loglevel=5" # mitigations are slow and useless here
	mkdir "$dir"
	put_modules "$work/$1" "$dir"
	put_steps "$2" "$dir"
	{ cat "$work/base.cpio" && archive "$dir"; } >"$dir.initrd"
	rm -rf "$dir"
	case $arch in
	amd64)
		append+=" console=ttyS0,115200"
		machine=(-serial "file:$work/$1-$2.verbose" -cpu max)
		# Workarounds for bugs in the software emulation of Debian 12's QEMU 7.2:
		# -cx16: cmpxchg16b corrupts the flags, and Linux 6.12, whose allocator uses it, crashes with a double fault.
		# thread=single: with one host thread per CPU, a CPU may loop forever at a breakpoint that another one has removed.
		# The kernel patches its code when the first program is attached to a cgroup and when the last one is detached
		# (text_poke_bp), which the tests do often.
		# slab_debug=F: without cmpxchg16b, newer kernels (7.3) cannot allocate socket storage (kmalloc_nolock) unless
		# consistency checks are enabled, which select another code path.
		[[ $accel != tcg ]] || { append+=" slab_debug=F" how+=,thread=single machine=(-serial "file:$work/$1-$2.verbose" -cpu "max,-cx16"); }
		;;
	arm64)
		append+=" console=ttyAMA0"
		machine=(-machine "virt,gic-version=3" -cpu neoverse-n1)
		[[ $accel != kvm ]] || machine=(-machine "virt,gic-version=host" -cpu host)
		;;
	esac
	nice -n "${SOTTO_VM_NICE:-10}" "$qemu" -accel "$how" -smp 2 -m $memory -nodefaults -no-user-config -nic none \
		-display none -no-reboot -serial "file:$work/$1-$2.log" "${machine[@]}" -kernel "$vmlinuz" -initrd "$dir.initrd" \
		-append "$append" >"$work/$1-$2.qemu" 2>&1 </dev/null &
	pid=$!
	defer stop "$pid"
}

# end_guest SUITE PART PID: removes what start_guest made, and prints the results.
end_guest() {
	local log=$work/$1-$2.log line saved
	stop "$3"
	cat "$work/$1-$2.qemu" >>"$log"
	rm -f "$work/boot-$1-$2.initrd"
	note "$2:"
	tr -d '\r' <"$log" | sed -n 's/^@@ \(ok\|FAILED\) /\1 /p' >"$work/results"
	while read -r line; do note "   $line"; done <"$work/results"
	if grep -q '^FAILED' "$work/results" || ! grep -q '^@@ end' "$log"; then
		grep -q '^@@ end' "$log" || note "   NOT COMPLETED"
		saved=/var/tmp/sotto-vm-$1-$arch-$2.log
		tr -d '\r' <"$log" >"$saved"
		# What a test that hung has written.
		grep -q '^@@ end' "$log" || [[ ! -e ${log%.log}.verbose ]] || tail -n 200 "${log%.log}.verbose" | tr -d '\r' >>"$saved"
		note "   console log: $saved"
		failed=1
	fi
}

# boot_parts SUITE PART…: boots a guest for each part, some at a time.
boot_parts() {
	local suite=$1 pid queue=("${@:2}") part
	local -A pids=() ends=()
	while [[ ${#queue[@]} -gt 0 || ${#pids[@]} -gt 0 ]]; do
		while [[ ${#queue[@]} -gt 0 && ${#pids[@]} -lt $jobs ]]; do
			start_guest "$suite" "${queue[0]}"
			pids[${queue[0]}]=$pid ends[${queue[0]}]=$((SECONDS + limit))
			queue=("${queue[@]:1}")
		done
		sleep 0.5
		for part in "${!pids[@]}"; do
			if kill -0 "${pids[$part]}" 2>/dev/null; then
				((SECONDS >= ends[$part])) || continue
				echo "@@ FAILED time stopped after $limit s" >>"$work/$suite-$part.log"
			fi
			end_guest "$suite" "$part" "${pids[$part]}"
			unset "pids[$part]"
		done
	done
}

# record_results SUITE PART…: adds the results to the file of results; with --record README.md is updated at the same time,
# because a test compares the two.
record_results() {
	local suite=$1 part args=()
	for part in "${excluded[@]}"; do args+=(-excluded "$part"); done
	for part in "${@:2}"; do args+=("$part=$work/$suite-$part.log"); done
	go run ./internal/kernels/update -into "$results" -suite "$suite" -arch "$arch" -release "$release" -config "$config" \
		-date "$(date +%F)" -commit "$(tested_commit)" \
		-emulator "$($qemu --version | sed -n '1s/.*version \([0-9.]*\).*/QEMU \1/p'), $accel" -order "${names[*]}" "${args[@]}"
	[[ -z $record ]] || go run ./internal/kernels/update -into "$results" -readme README.md
}

# ---- all kernels -----------------------------------------------------------------------------------------

install_missing "${packages[@]}"
ensure_go
work=$(mktemp -d /var/tmp/sotto-vm.XXXXXX)
defer rm -rf "$work"
cache=${SOTTO_VM_CACHE:-$work}
mkdir -p "$cache"
results=$work/kernels.json
read -ra custom <<<"${SOTTO_VM_TESTS:-}"
[[ -z $record ]] || results=docs/kernels.json
names=("${parts[@]%% *}")
read -ra chosen <<<"${SOTTO_VM_PARTS:-${names[*]}}"
if [[ ${#custom[@]} -gt 0 ]]; then
	chosen=(custom) tested=("${custom[@]}")
else
	mapfile -t tested < <(for part in "${chosen[@]}"; do part_packages "$part"; done)
fi
mapfile -t tested < <(printf '%s\n' "${tested[@]%%:*}" | sort -u)
failed='' missing=()
say "guest for $arch"
make_guest "$work/base"
make_tests "$work/tests" "${tested[@]}"
archive "$work/base" >"$work/base.cpio"
rm -rf "$work/base"
for suite in "${wanted[@]}"; do
	read -ra words < <(printf '%s\n' "${suites[@]}" | grep "^$suite ")
	series=${words[1]}
	release='' vmlinuz='' config=''
	if ! get_kernel "$suite" "$series" "${words[@]:2}"; then
		tail -n 3 "$cache/apt-$suite-$arch/log" >&2
		missing+=("$suite: NOT TESTED: no cloud kernel for $arch at $mirror")
		failed=1
		continue
	fi
	say "$suite: Linux $release ($accel)"
	[[ $release == "$series".* ]] || missing+=("NOT TESTED: Linux $series, no longer in $suite")
	started=$SECONDS
	boot_parts "$suite" "${chosen[@]}"
	record_results "$suite" "${chosen[@]}"
	note "$((SECONDS - started)) s"
	rm -rf "${work:?}/$suite"
done
say "kernels"
go run ./internal/kernels/update -into "$results" -table
for line in "${missing[@]}"; do note "$line"; done
[[ -z $failed ]]
