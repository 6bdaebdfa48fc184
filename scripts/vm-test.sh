#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto on other kernels: boots Debian's cloud kernels in QEMU, each with an initramfs that contains Sotto, the tests
# that depend on the kernel, and real DNS clients. Runs `sotto demo`, `sotto exec`, `sotto run` on the root cgroup, and the
# tests. The guest has no network device. A few minutes per kernel; not part of scripts/test.sh.
#
#   sudo ./scripts/vm-test.sh [SUITE…]      default: all suites in the list below
#
#   SOTTO_VM_ACCEL=tcg     accelerator of QEMU: tcg (software emulation) works everywhere; kvm is faster where available
#   SOTTO_VM_SECONDS=2100  time limit per kernel
#   SOTTO_VM_SKIP=REGEXP   tests to skip in addition to those in SKIP below
#   SOTTO_VM_TESTS=WORDS   packages whose tests run, "" for none; PACKAGE:REGEXP runs only the tests that match. Default:
#                          intercept intercept/cgroup intercept/feature intercept/guard intercept/nat intercept/network
#                          internal/netns cmd/sotto internal/demo internal/e2e/{exec,resolve,run,takeover}
#                          internal/e2e/local:^TestWholeHost (local resolvers under a seal of the whole host)
#   SOTTO_MIRROR=URL       where Debian's packages come from
#
# Prints one line per kernel. The exit status is 1 if a kernel failed or a suite had none. If a suite has a newer kernel
# series than listed, the line names the series that was not tested. The serial console log of a failed kernel is saved in
# /var/tmp.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Suite, its kernel series at the time of writing, and other suites (with their archive) that may have it.
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
	"curl curl"
	"dnsmasq dnsmasq-base"
	"unbound unbound"
)

# Programs that the tests run, copied with their libraries; all other programs in the guest are busybox.
tools=(ip nft dig host kdig drill getent unshare nsenter setpriv curl dnsmasq unbound)

# Kernel features that Sotto and its tests use, as modules or built in.
modules=(
	veth bridge sch_ingress cls_bpf udp_diag tcp_diag af_packet dummy tun
	nf_tables nft_counter nft_objref nft_ct nft_chain_nat nft_masq nft_nat nft_redir nf_conntrack nf_conntrack_netlink nft_meta
)

# dnspython would require all of Python, iptables its extensions.
readonly SKIP='^(TestRealClients|TestRunClients)$/^dnspython|^TestLeakNAT$/^iptables|^TestFollowsLegacy$'

need_root
[[ $(dpkg --print-architecture) == amd64 ]] || die "this script needs an amd64 machine"
accel=${SOTTO_VM_ACCEL:-tcg}
limit=${SOTTO_VM_SECONDS:-2100}
mirror=${SOTTO_MIRROR:-http://deb.debian.org/debian}
read -ra tested <<<"${SOTTO_VM_TESTS-intercept intercept/cgroup intercept/feature intercept/guard intercept/nat intercept/network internal/netns cmd/sotto internal/demo internal/e2e/exec internal/e2e/resolve internal/e2e/run internal/e2e/takeover internal/e2e/local:^TestWholeHost}"

# ---- kernels ---------------------------------------------------------------------------------------------

# apt_of SUITE TOOL ARGUMENT…: runs an apt tool with separate sources and state, without changing the machine's.
apt_of() {
	local dir=$work/apt-$1 tool=$2
	shift 2
	"$tool" -q -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o Dir::State::Status=/dev/null \
		-o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# get_kernel SUITE [SUITE:ARCHIVE…]: downloads the newest cloud kernel and unpacks it in $work/SUITE. A kernel is one package
# or, since 6.19, several: an empty linux-image, linux-binary and linux-modules.
get_kernel() {
	local suite=$1 dir=$work/apt-$1 root=$work/$1 other wanted deb
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/debs" "$root"
	for other in "$suite:${mirror##*/}" "${@:2}"; do
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s/%s %s main\n' \
			"${mirror%/*}" "${other#*:}" "${other%:*}"
	done >"$dir/sources.list"
	# Ignore errors: one of several archives may no longer exist. A missing kernel is detected below.
	apt_of "$suite" apt-get update >"$dir/log" 2>&1 || true
	wanted=$(apt_of "$suite" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces --no-enhances linux-image-cloud-amd64 2>>"$dir/log" |
		grep -E '^linux-(image|binary|modules)-[0-9].*-cloud-amd64$' | sort -u) || true
	[[ -n $wanted ]] || return 1
	# shellcheck disable=SC2086 # words
	(cd "$dir/debs" && apt_of "$suite" apt-get download $wanted >>"$dir/log" 2>&1) || return 1
	for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$root"; done
	# With a merged /usr, the modules are below /usr/lib; depmod and modprobe search /lib.
	[[ -e $root/lib ]] || ln -s usr/lib "$root/lib"
	release=$(find "$root/lib/modules/" -mindepth 1 -maxdepth 1 -printf '%f\n' | head -n1)
	vmlinuz=$(find "$root/" -name 'vmlinuz*' -type f | head -n1)
	[[ -n $release && -n $vmlinuz ]]
}

# put_modules ROOT INITRAMFS: copies the modules and their dependencies, and writes the order in which to load them.
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

# ---- contents of the initramfs ----------------------------------------------------------------------------

# put_program PATH INITRAMFS [DIRECTORY]: copies a program and its shared libraries.
put_program() {
	local path=$1 into=$2 at=${3:-/usr/bin}
	mkdir -p "$into$at"
	cp -L "$path" "$into$at/"
	put_libraries "$path" "$into"
}

# put_libraries PATH INITRAMFS: copies the shared libraries of a program or library.
put_libraries() {
	local path=$1 into=$2 lib
	while read -r lib; do
		mkdir -p "$into$(dirname "$lib")"
		[[ -e $into$lib ]] || cp -L "$lib" "$into$lib"
	done < <(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | sort -u)
}

# put_compilers INITRAMFS: the tests compile C clients and build sotto. The compilers in the guest are scripts that copy the
# programs that this machine compiled from the same sources with the same options.
put_compilers() {
	local into=$1 dir=internal/e2e/resolve/testdata
	mkdir -p "$work/clients"
	gcc -Wall -o "$work/clients/gcc-libc.c" $dir/libc.c
	gcc -Wall -o "$work/clients/gcc-cares.c" $dir/cares.c -lcares
	musl-gcc -static -Wall -o "$work/clients/musl-gcc-libc.c" $dir/libc.c
	for client in "$work"/clients/*; do put_program "$client" "$into" /compiled; done
	cat >"$into/usr/bin/gcc" <<-'END'
		#!/bin/sh
		for arg; do
			[ "$previous" != -o ] || out=$arg
			case $arg in *.c) source=$(basename "$arg") ;; esac
			previous=$arg
		done
		exec cp "/compiled/$(basename "$0")-$source" "$out"
	END
	cat >"$into/usr/bin/go" <<-'END'
		#!/bin/sh
		[ "$1 $2 $4" = "build -o sotto/cmd/sotto" ] && exec cp /usr/bin/sotto "$3"
		echo "in this guest, go can only build sotto: go $*" >&2
		exit 1
	END
	cp "$into/usr/bin/gcc" "$into/usr/bin/musl-gcc"
	chmod 755 "$into"/usr/bin/{gcc,musl-gcc,go}
}

# put_resolved INITRAMFS: systemd-resolved, nss-resolve and nscd, in /resolved as on the machines of scripts/test.sh.
put_resolved() {
	local into=$1 file
	fetch_resolved "$work/resolved"
	rm -r "$work/resolved/usr/share"
	while read -r file; do
		LD_LIBRARY_PATH=$(echo "$work"/resolved/usr/lib/*/systemd) put_libraries "$file" "$into"
	done < <(find "$work/resolved" -type f \( -name '*.so*' -o -perm -100 \))
	# Libraries that come with it are found by LD_LIBRARY_PATH.
	rm -rf "${into:?}$work"
	cp -a "$work/resolved" "$into/resolved"
}

# put_java INITRAMFS: a Java runtime with only java.base, and the compiled client, if this machine has a JDK. Its javac
# is a script like the other compilers.
put_java() {
	local into=$1 file
	if ! command -v jlink >/dev/null || ! command -v javac >/dev/null; then
		note "without Java: a JDK with jlink is not installed"
		return
	fi
	jlink --add-modules java.base --strip-java-debug-attributes --no-header-files --no-man-pages --output "$into/java"
	"$into/java/bin/java" -Xshare:dump >/dev/null # a smaller startup time, which matters under emulation
	while read -r file; do put_libraries "$file" "$into"; done < <(find "$into/java" -name '*.so' -o -path '*/bin/java')
	rm -rf "${into:?}$work"
	ln -s /java/bin/java "$into/usr/bin/java"
	javac -d "$into/compiled" internal/e2e/resolve/testdata/Lookup.java
	cat >"$into/usr/bin/javac" <<-'END'
		#!/bin/sh
		exec cp /compiled/Lookup.class "$2/"
	END
	chmod 755 "$into/usr/bin/javac"
}

# put_tests INITRAMFS WORD: the tests of a package, see SOTTO_VM_TESTS.
put_tests() {
	local into=$1 package=${2%%:*} run='' name cgo=0
	name=test-${package//\//-}
	[[ $2 != *:* ]] || run=${2#*:}
	# The C library's resolver is one of its clients.
	[[ $package != internal/e2e/local ]] || cgo=1
	CGO_ENABLED=$cgo go test -c -trimpath -ldflags '-s -w' -o "$into/tests/$name" "./$package"
	put_libraries "$into/tests/$name" "$into"
	echo "$name $package $run" >>"$into/tests/list"
}

make_guest() {
	local into=$1 tool word
	mkdir -p "$into"/{bin,usr/bin,dev,proc,sys,tmp,run,var,root,etc,tests,src,sbin}
	ln -s /run "$into/var/run"
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
	if [[ " ${tested[*]} " == *" internal/e2e/local"* ]]; then
		put_resolved "$into"
		put_java "$into"
	fi
	# Some tests read files of their packages.
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$into/src" -xf -
	: >"$into/tests/list"
	for word in "${tested[@]}"; do put_tests "$into" "$word"; done
	printf '%s' "$SKIP${SOTTO_VM_SKIP:+|$SOTTO_VM_SKIP}" >"$into/tests/skip"
}

# ---- one kernel ------------------------------------------------------------------------------------------

# boot SUITE: boots the kernel, with its console in $work/SUITE.log. The status is 0 if the guest completed all steps.
boot() {
	local log=$work/$1.log into=$work/initramfs how=$accel cpu=max pid end
	rm -rf "$into/modules" "$into/modules.order"
	put_modules "$work/$1" "$into"
	(cd "$into" && find . | cpio --quiet -o -H newc) >"$work/initrd"
	# Workarounds for bugs in the software emulation of Debian 12's QEMU 7.2:
	# -cx16: cmpxchg16b corrupts the flags, and Linux 6.12, whose allocator uses it, crashes with a double fault.
	# thread=single: with one host thread per CPU, a CPU may loop forever at a breakpoint that another one has removed.
	# The kernel patches its code when the first program is attached to a cgroup and when the last one is detached
	# (text_poke_bp), which the tests do often.
	# slab_debug=F: without cmpxchg16b, newer kernels (7.3) cannot allocate socket storage (kmalloc_nolock) unless
	# consistency checks are enabled, which select another code path.
	local append="console=ttyS0,115200 loglevel=5 panic=-1 softlockup_panic=1 softlockup_all_cpu_backtrace=1 mitigations=off"
	if [[ $accel == tcg ]]; then
		append+=" slab_debug=F"
		cpu+=,-cx16
		how+=,thread=single
	fi
	# mitigations=off: under emulation they are slow and useless.
	nice -n 10 qemu-system-x86_64 -accel "$how" -cpu "$cpu" -smp 2 -m 2048 -nodefaults -no-user-config -nic none \
		-display none -no-reboot -serial "file:$log" -kernel "$vmlinuz" -initrd "$work/initrd" \
		-append "$append" >"$work/qemu.log" 2>&1 </dev/null &
	pid=$!
	defer stop "$pid"
	end=$((SECONDS + limit))
	while kill -0 "$pid" 2>/dev/null && ((SECONDS < end)); do sleep 0.5; done
	kill -0 "$pid" 2>/dev/null && echo "@@ FAILED time: stopped after $limit s" >>"$log"
	stop "$pid"
	cat "$work/qemu.log" >>"$log"
	rm -f "$work/initrd"
	grep -q '^@@ end' "$log"
}

# report SUITE SERIES: prints the results of the guest and adds the summary line.
report() {
	local log=$work/$1.log saved line verdict
	verdict="passed: hooks load and attach, the root cgroup is sealed, $(awk '/^@@ ok/ { for (i = 2; i <= NF; i++) if ($i ~ /^passed/) n += $(i - 1) } END { print n + 0 }' "$log") tests passed"
	tr -d '\r' <"$log" | sed -n 's/^@@ \(ok\|FAILED\) /\1 /p' >"$work/results"
	while read -r line; do note "$line"; done <"$work/results"
	if grep -q '^FAILED' "$work/results" || ! grep -q '^@@ end' "$log"; then
		verdict="FAILED: $(sed -n 's/^FAILED \([^ ,:]*\).*/\1/p' "$work/results" | paste -sd' ' | sed 's/$/;/')"
		grep -q '^@@ end' "$log" || verdict+=" not completed;"
		saved=/var/tmp/sotto-vm-$1-$release.log
		cp "$log" "$saved"
		verdict+=" console log: $saved"
		failed=1
	fi
	# The suite has a newer series. That is not a failure, but the listed series was not tested.
	[[ $release == "$2".* ]] || verdict+="; NOT TESTED: $2, no longer in $1"
	lines+=("Linux $release ($1): $verdict")
}

install_missing "${packages[@]}"
ensure_go
work=$(mktemp -d /var/tmp/sotto-vm.XXXXXX)
defer rm -rf "$work"
failed='' lines=()
say "initramfs"
make_guest "$work/initramfs"
note "skipped tests: $(cat "$work/initramfs/tests/skip")"
for entry in "${suites[@]}"; do
	read -ra words <<<"$entry"
	suite=${words[0]} series=${words[1]}
	[[ $# == 0 || " $* " == *" $suite "* ]] || continue
	release=
	if ! get_kernel "$suite" "${words[@]:2}"; then
		tail -n 3 "$work/apt-$suite/log" >&2
		lines+=("$suite: NOT TESTED: no cloud kernel at $mirror")
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
[[ ${#lines[@]} -gt 0 ]] || die "unknown suite: $*; available: ${suites[*]%% *}"
say "kernels"
for line in "${lines[@]}"; do note "$line"; done
[[ -z $failed ]]
