#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Does it work on other kernels? Boots Debian's cloud kernels in QEMU, each with an initramfs that holds Sotto, the
# tests that need a kernel, and real clients: `sotto demo`, `sotto exec`, `sotto run` on the *root* cgroup (a machine
# of its own is the place for that), and the tests. The guest has no network device. A few minutes a kernel; not
# part of scripts/test.sh.
#
#   sudo ./scripts/vm-test.sh [SUITE…]      default: every suite of the list below
#
#   SOTTO_VM_ACCEL=tcg     how QEMU runs it: tcg is software emulation and works everywhere; kvm is faster where it works
#   SOTTO_VM_SECONDS=1500  how long one kernel may take
#   SOTTO_VM_SKIP=REGEXP   tests to leave out, besides those that are named anyway
#   SOTTO_VM_TESTS=WORDS   packages whose tests run, "" for none: intercept intercept/nat internal/netns cmd/sotto internal/demo
#                          internal/e2e/{exec,resolve,run,takeover}
#   SOTTO_MIRROR=URL       where Debian's packages come from
#
# One line a kernel, and status 1 when one of them failed, or when a suite had none. A suite moves on: the line then
# names the series that was not tried. The serial console of a kernel that failed is kept in /var/tmp.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# suite, the series that was asked for when this was written, other suites that may have it (with their archive)
suites=(
	"bullseye 5.10 bullseye-security:debian-security"
	"bookworm 6.1"
	"bookworm-backports 6.12"
	"trixie-backports 6.19"
	"forky 7.2"
)

packages=(
	"qemu-system-x86_64 qemu-system-x86"
	"/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring"
	"cpio cpio"
	"depmod kmod"
	"xz xz-utils"
	"busybox busybox-static"
	"gcc gcc"
	"/usr/include/stdio.h libc6-dev"
	"musl-gcc musl-tools"
	"/usr/include/ares.h libc-ares-dev"
	"ip iproute2"
	"nft nftables"
	"dig bind9-dnsutils"
	"host bind9-host"
	"kdig knot-dnsutils"
	"drill ldnsutils"
)

# Programs that the tests run, each with its libraries; all else in the guest is busybox.
tools=(ip nft dig host kdig drill getent unshare nsenter setpriv)

# What Sotto and its tests use and a cloud kernel has as a module, or built in.
modules=(
	veth bridge sch_ingress cls_bpf udp_diag tcp_diag af_packet dummy tun
	nf_tables nft_counter nft_objref nft_ct nft_chain_nat nft_masq nft_nat nft_redir nf_conntrack nf_conntrack_netlink nft_meta
)

# dnspython would take all of Python along, iptables its extensions.
readonly SKIP='^(TestRealClients|TestRunClients)$/^dnspython|^TestLeakNAT$/^iptables|^TestFollowsLegacy$'

need_root
[[ $(dpkg --print-architecture) == amd64 ]] || die "this builds an amd64 machine out of amd64 programs; run it on one"
accel=${SOTTO_VM_ACCEL:-tcg}
limit=${SOTTO_VM_SECONDS:-1500}
mirror=${SOTTO_MIRROR:-http://deb.debian.org/debian}
read -ra tested <<<"${SOTTO_VM_TESTS-intercept intercept/nat internal/netns cmd/sotto internal/demo internal/e2e/exec internal/e2e/resolve internal/e2e/run internal/e2e/takeover}"

# ---- kernels ---------------------------------------------------------------------------------------------

# apt_of SUITE TOOL ARGUMENT…: apt with sources and state of its own, so that the machine's stay as they are.
apt_of() {
	local dir=$work/apt-$1 tool=$2
	shift 2
	"$tool" -q -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o Dir::State::Status=/dev/null \
		-o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# get_kernel SUITE [SUITE:ARCHIVE…]: its newest cloud kernel, unpacked in $work/SUITE. A kernel is one package, or
# since 6.19 several: linux-image with nothing in it, linux-binary and linux-modules.
get_kernel() {
	local suite=$1 dir=$work/apt-$1 root=$work/$1 other wanted deb
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/debs" "$root"
	for other in "$suite:${mirror##*/}" "${@:2}"; do
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s/%s %s main\n' \
			"${mirror%/*}" "${other#*:}" "${other%:*}"
	done >"$dir/sources.list"
	# One archive of several may be gone; what counts is whether there is a kernel.
	apt_of "$suite" apt-get update >"$dir/log" 2>&1 || true
	wanted=$(apt_of "$suite" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces --no-enhances linux-image-cloud-amd64 2>>"$dir/log" |
		grep -E '^linux-(image|binary|modules)-[0-9].*-cloud-amd64$' | sort -u) || true
	[[ -n $wanted ]] || return 1
	# shellcheck disable=SC2086 # words
	(cd "$dir/debs" && apt_of "$suite" apt-get download $wanted >>"$dir/log" 2>&1) || return 1
	for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$root"; done
	# Where /usr is merged, the modules are below it; depmod and modprobe look in /lib.
	[[ -e $root/lib ]] || ln -s usr/lib "$root/lib"
	release=$(find "$root/lib/modules/" -mindepth 1 -maxdepth 1 -printf '%f\n' | head -n1)
	vmlinuz=$(find "$root/" -name 'vmlinuz*' -type f | head -n1)
	[[ -n $release && -n $vmlinuz ]]
}

# put_modules ROOT INITRAMFS: those wanted and what they depend on, in the order in which they go in.
put_modules() {
	local root=$1 into=$2 module file
	depmod -b "$root" "$release" 2>"$work/depmod.log" || die "depmod of $release: $(cat "$work/depmod.log")"
	mkdir -p "$into/modules"
	for module in "${modules[@]}"; do
		modprobe -d "$root" -S "$release" --show-depends "$module" 2>/dev/null || true
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/order"
	: >"$into/modules.order"
	while read -r file; do
		module=/modules/$(basename "$file")
		case $file in
		*.xz) module=${module%.xz} && xz -dc "$file" >"$into$module" ;;
		*.zst) module=${module%.zst} && zstd -qdc "$file" >"$into$module" ;;
		*) cp "$file" "$into$module" ;;
		esac
		echo "$module" >>"$into/modules.order"
	done <"$work/order"
}

# ---- what goes into every guest ---------------------------------------------------------------------------

# put_program PATH INITRAMFS [DIRECTORY]: a program, and the libraries it is linked with where it looks for them.
put_program() {
	local path=$1 into=$2 at=${3:-/usr/bin} lib
	mkdir -p "$into$at"
	cp -L "$path" "$into$at/"
	while read -r lib; do
		mkdir -p "$into$(dirname "$lib")"
		[[ -e $into$lib ]] || cp -L "$lib" "$into$lib"
	done < <(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | sort -u)
}

# put_compilers INITRAMFS: the tests compile clients, and build sotto; in the guest, compilers that hand out what
# this machine compiled from the same source with the same words.
put_compilers() {
	local into=$1 dir=internal/e2e/resolve/testdata
	mkdir -p "$work/clients"
	gcc -Wall -o "$work/clients/gcc-libc.c" $dir/libc.c
	gcc -Wall -o "$work/clients/gcc-cares.c" $dir/cares.c -lcares
	musl-gcc -static -Wall -o "$work/clients/musl-gcc-libc.c" $dir/libc.c
	for client in "$work"/clients/*; do put_program "$client" "$into" /compiled; done
	cat >"$into/usr/bin/gcc" <<-'END'
		#!/bin/sh
		for word; do
			[ "$previous" != -o ] || out=$word
			case $word in *.c) source=$(basename "$word") ;; esac
			previous=$word
		done
		exec cp "/compiled/$(basename "$0")-$source" "$out"
	END
	cat >"$into/usr/bin/go" <<-'END'
		#!/bin/sh
		[ "$1 $2 $4" = "build -o sotto/cmd/sotto" ] && exec cp /usr/bin/sotto "$3"
		echo "in this guest, go only builds sotto: go $*" >&2
		exit 1
	END
	cp "$into/usr/bin/gcc" "$into/usr/bin/musl-gcc"
	chmod 755 "$into"/usr/bin/{gcc,musl-gcc,go}
}

make_guest() {
	local into=$1 package name tool
	mkdir -p "$into"/{bin,usr/bin,dev,proc,sys,tmp,run,var,root,etc,tests,src,sbin}
	cp scripts/vm-guest.sh "$into/init"
	cp "$(type -P busybox)" "$into/bin/busybox"
	ln -s busybox "$into/bin/sh"
	for tool in "${tools[@]}"; do put_program "$(type -P "$tool")" "$into"; done
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n' >"$into/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$into/etc/group"
	echo 'hosts: files dns' >"$into/etc/nsswitch.conf"
	echo sotto-guest >"$into/etc/hostname"
	echo '127.0.0.1 localhost' >"$into/etc/hosts"
	: >"$into/etc/resolv.conf"
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$into/usr/bin/sotto" ./cmd/sotto
	put_compilers "$into"
	# Tests read what lies beside them.
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$into/src" -xf -
	: >"$into/tests/list"
	for package in "${tested[@]}"; do
		name=test-${package//\//-}
		CGO_ENABLED=0 go test -c -trimpath -ldflags '-s -w' -o "$into/tests/$name" "./$package"
		echo "$name $package" >>"$into/tests/list"
	done
	printf '%s' "$SKIP${SOTTO_VM_SKIP:+|$SOTTO_VM_SKIP}" >"$into/tests/skip"
}

# ---- one kernel ------------------------------------------------------------------------------------------

# boot SUITE: its console in $work/SUITE.log; status 0 when the guest came to its end.
boot() {
	local log=$work/$1.log into=$work/initramfs how=$accel cpu=max pid end
	rm -rf "$into/modules" "$into/modules.order"
	put_modules "$work/$1" "$into"
	(cd "$into" && find . | cpio --quiet -o -H newc) >"$work/initrd"
	# What Debian 12's QEMU 7.2 gets wrong in software. cmpxchg16b leaves an address in the flags, and Linux 6.12,
	# whose allocator is full of it, dies of a double fault. And with a host thread for each of its processors, one
	# of them may go on for ever at a breakpoint that another has taken away: the kernel patches its own code when
	# the first program is attached to a cgroup and when the last one goes (text_poke_bp), which tests do often.
	# slab_debug=F: without cmpxchg16b newer kernels (7.3) give socket storage no memory (kmalloc_nolock), unless
	# the allocator checks itself, and then takes the way that needs none.
	local append="console=ttyS0,115200 loglevel=5 panic=-1 softlockup_panic=1 softlockup_all_cpu_backtrace=1 mitigations=off"
	if [[ $accel == tcg ]]; then
		append+=" slab_debug=F"
		cpu+=,-cx16
		how+=,thread=single
	fi
	# mitigations=off: emulated, they cost time and protect nobody.
	nice -n 10 qemu-system-x86_64 -accel "$how" -cpu "$cpu" -smp 2 -m 2048 -nodefaults -no-user-config -nic none \
		-display none -no-reboot -serial "file:$log" -kernel "$vmlinuz" -initrd "$work/initrd" \
		-append "$append" >"$work/qemu.log" 2>&1 </dev/null &
	pid=$!
	defer stop "$pid"
	end=$((SECONDS + limit))
	while kill -0 "$pid" 2>/dev/null && ((SECONDS < end)); do sleep 0.5; done
	kill -0 "$pid" 2>/dev/null && echo "@@ FAILED time: not done within $limit s, and stopped" >>"$log"
	stop "$pid"
	cat "$work/qemu.log" >>"$log"
	rm -f "$work/initrd"
	grep -q '^@@ end' "$log"
}

# report SUITE SERIES: what the guest said, and the one line.
report() {
	local log=$work/$1.log kept line verdict
	verdict="works: hooks load and attach, the root cgroup is sealed, $(awk '/^@@ ok/ { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) n += $(i - 1) } END { print n + 0 }' "$log") tests passed"
	tr -d '\r' <"$log" | sed -n 's/^@@ \(ok\|FAILED\) /\1 /p' >"$work/said"
	while read -r line; do note "$line"; done <"$work/said"
	if grep -q '^FAILED' "$work/said" || ! grep -q '^@@ end' "$log"; then
		verdict="FAILED: $(sed -n 's/^FAILED \([^ ,:]*\).*/\1/p' "$work/said" | paste -sd' ' | sed 's/$/;/')"
		grep -q '^@@ end' "$log" || verdict+=" it did not come to its end;"
		kept=/var/tmp/sotto-vm-$1-$release.log
		cp "$log" "$kept"
		verdict+=" console: $kept"
		failed=1
	fi
	# A suite moves on. That is no failure, but what it had is not tried then.
	[[ $release == "$2".* ]] || verdict+="; NOT TRIED: $2, which $1 no longer has"
	lines+=("Linux $release ($1): $verdict")
}

install_missing "${packages[@]}"
ensure_go
work=$(mktemp -d /var/tmp/sotto-vm.XXXXXX)
defer rm -rf "$work"
failed='' lines=()
say "what every guest runs"
make_guest "$work/initramfs"
note "left out: $(cat "$work/initramfs/tests/skip")"
for entry in "${suites[@]}"; do
	read -ra words <<<"$entry"
	suite=${words[0]} series=${words[1]}
	[[ $# == 0 || " $* " == *" $suite "* ]] || continue
	release=
	if ! get_kernel "$suite" "${words[@]:2}"; then
		tail -n 3 "$work/apt-$suite/log" >&2
		lines+=("$suite: NOT TRIED: no cloud kernel to be had from $mirror")
		failed=1
		continue
	fi
	say "$suite: Linux $release ($accel)"
	started=$SECONDS
	boot "$suite" || true
	report "$suite" "$series"
	note "$((SECONDS - started)) s"
	rm -rf "${work:?}/$suite" "$work/apt-$suite"
done
[[ ${#lines[@]} -gt 0 ]] || die "no such suite: $*; there are: ${suites[*]%% *}"
say "kernels"
for line in "${lines[@]}"; do note "$line"; done
[[ -z $failed ]]
