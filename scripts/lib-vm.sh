# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Kernels and contents of the virtual machines of scripts/vm-test.sh. Source it after lib.sh. $work is the directory of
# the run, $cache that of downloaded packages, $arch the architecture of the guest, $cc its C compiler, $mirror the mirror of
# Debian.
# shellcheck disable=SC2154 # these variables

# Programs in the guest: packages with their dependencies, and those without. Their scripts do not run.
guest_packages=(
	base-files bash coreutils dash findutils gawk grep hostname iproute2 kmod libc-bin mount procps sed util-linux
	nftables iptables bind9-dnsutils bind9-host knot-dnsutils ldnsutils curl dnsmasq-base unbound nsd slirp4netns passt
	python3 python3-dnspython libc-ares2 libsystemd-shared libnss-resolve nscd
	dnstap-ldns bsdutils
)
guest_alone=(systemd-resolved busybox-static libc-ares-dev musl-dev)

# Kernel features that Sotto and its tests use, as modules or built in. The kernel loads most of them itself.
modules=(
	veth bridge sch_ingress cls_bpf udp_diag tcp_diag af_packet dummy tun
	nf_tables nft_counter nft_objref nft_ct nft_chain_nat nft_masq nft_nat nft_redir nf_conntrack nf_conntrack_netlink nft_meta
	nft_compat nft_log nft_reject_ipv4 nft_reject_ipv6 nft_reject_inet nft_fib_inet nft_limit nft_socket nft_meta_bridge nft_reject_bridge br_netfilter
	ip_tables iptable_filter iptable_nat iptable_mangle iptable_raw ip6_tables ip6table_filter ip6table_nat
	xt_tcpudp xt_conntrack xt_REDIRECT xt_nat xt_MASQUERADE xt_comment xt_mark xt_multiport xt_addrtype xt_owner xt_cgroup
	ipt_REJECT ip6t_REJECT nfnetlink_log macvlan ipvlan vrf smc
)

# apt_of NAME ARCH TOOL ARGUMENT…: runs an apt tool with separate sources and state, without changing the machine's.
apt_of() {
	local dir=$cache/apt-$1 of=$2 tool=$3
	shift 3
	"$tool" -q -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Debug::NoLocking=1 \
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o Dir::State::Status=/dev/null \
		-o APT::Sandbox::User=root -o "APT::Architecture=$of" -o "APT::Architectures::=$of" -o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Dir::Etc::Preferences=/dev/null "$@"
}

# apt_sources NAME SUITE:ARCHIVE…: sets the sources of apt_of NAME and reads their lists.
apt_sources() {
	local dir=$cache/apt-$1 entry
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/debs"
	for entry in "${@:2}"; do
		printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s/%s %s main\n' \
			"${mirror%/*}" "${entry#*:}" "${entry%:*}"
	done >"$dir/sources.list"
	# Ignore errors: one of several archives may no longer exist. A missing package is detected later.
	apt_of "$1" "$arch" apt-get update >"$dir/log" 2>&1 || true
}

# ---- kernels ---------------------------------------------------------------------------------------------

# get_kernel SUITE SERIES [SUITE:ARCHIVE…]: downloads the newest cloud kernel of a series, or the newest of all if the suite has none
# of that, or only a part of it, and unpacks it in $work/SUITE. Sets release, vmlinuz and config.
get_kernel() {
	local suite=$1 series=$2 name=$1-$arch image
	apt_sources "$name" "$suite:${mirror##*/}" "${@:3}"
	image=$(apt_of "$name" "$arch" apt-cache pkgnames "linux-image-$series." 2>>"$cache/apt-$name/log" | grep -e "-cloud-$arch\$" | sort -V | tail -n1) || true
	{ [[ -n $image ]] && unpack_kernel "$suite" "$image"; } || unpack_kernel "$suite" "linux-image-cloud-$arch"
}

# unpack_kernel SUITE PACKAGE: a kernel is one package or, since 6.19, several: an empty linux-image, linux-binary and linux-modules.
unpack_kernel() {
	local name=$1-$arch root=$work/$1 wanted deb files
	local dir=$cache/apt-$name
	rm -rf "$root"
	mkdir -p "$root"
	wanted=$(apt_of "$name" "$arch" apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
		--no-replaces --no-enhances "$2" 2>>"$dir/log" |
		grep -E "^linux-(image|binary|modules|base)-[0-9].*-cloud-$arch\$" | sort -u) || true
	[[ -n $wanted ]] || return 1
	# shellcheck disable=SC2086 # words
	(cd "$dir/debs" && apt_of "$name" "$arch" apt-get download $wanted >>"$dir/log" 2>&1) || return 1
	for deb in $wanted; do
		files=("$dir/debs/$deb"_*.deb) # several versions in a cache
		dpkg -x "${files[-1]}" "$root"
	done
	# With a merged /usr, the modules are below /usr/lib; depmod and modprobe search /lib.
	[[ -e $root/lib ]] || ln -s usr/lib "$root/lib"
	[[ -d $root/lib/modules ]] || return 1
	release=$(find "$root/lib/modules/" -mindepth 1 -maxdepth 1 -printf '%f\n' | head -n1)
	vmlinuz=$(find "$root/" -name 'vmlinuz*' -type f | head -n1)
	config=$(find "$root/" \( -name "config-$release" -o -path '*/modules/*/config' \) -type f | head -n1)
	[[ -n $release && -n $vmlinuz && -n $config ]]
}

# put_modules ROOT DIRECTORY: copies the modules and their dependencies, for modprobe.
put_modules() {
	local root=$1 into=$2/usr/lib/modules/$release module file
	depmod -b "$root" "$release" 2>"$work/depmod.log" || die "depmod of $release: $(cat "$work/depmod.log")"
	mkdir -p "$into"
	cp "$root/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$into/"
	for module in "${modules[@]}"; do
		modprobe -d "$root" -S "$release" --show-depends "$module" 2>/dev/null || true
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/order"
	while read -r file; do
		module=$into/$(basename "$file")
		case $file in
		*.xz) xz -dc "$file" >"${module%.xz}" ;;
		*.zst) zstd -qdc "$file" >"${module%.zst}" ;;
		*) cp "$file" "$module" ;;
		esac
	done <"$work/order"
	ln -s usr/lib "$2/lib"
	depmod -b "$2" "$release" 2>>"$work/depmod.log" || die "depmod of $release: $(cat "$work/depmod.log")"
	rm "$2/lib"
}

# ---- contents of the guest -------------------------------------------------------------------------------

# guest_suite: prints the release of Debian in the guest: the machine's, because its C library is the one that the
# compiler links with. Elsewhere the newest stable one.
guest_suite() { (. /etc/os-release && [[ $ID == debian && -n ${VERSION_CODENAME:-} ]] && echo "$VERSION_CODENAME") || echo trixie; }

# put_packages DIRECTORY: unpacks the packages of the guest. /bin, /lib and /sbin are links as on an installed system.
put_packages() {
	local into=$1 suite dir deb name
	suite=$(guest_suite)
	dir=$cache/apt-guest-$arch
	apt_sources "guest-$arch" "$suite:${mirror##*/}" "$suite-security:debian-security"
	if ! apt_of "guest-$arch" "$arch" apt-get -y --no-install-recommends --download-only install "${guest_packages[@]}" >>"$dir/log" 2>&1 ||
		! (cd "$dir/cache/archives" && apt_of "guest-$arch" "$arch" apt-get download "${guest_alone[@]}" >>"$dir/log" 2>&1); then
		die "cannot download the programs of the guest from $mirror: $(tail -n 3 "$dir/log")"
	fi
	mkdir -p "$into"/usr/{bin,sbin,lib,lib64}
	for name in bin sbin lib lib64; do ln -s "usr/$name" "$into/$name"; done
	for deb in "$dir"/cache/archives/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar --keep-directory-symlink -C "$into" -xf -; done
	rm -rf "$into"/usr/share/{doc,man,locale,info,lintian,perl} "$into"/usr/lib/{systemd/system,udev} "$into"/usr/{lib,bin,sbin}/perl* \
		"$into"/usr/lib/*/{perl*,gconv} "$into"/var/cache/* "$into"/usr/share/zoneinfo
	# What the scripts of the packages would do.
	ln -sf dash "$into/usr/bin/sh"
	ln -sf gawk "$into/usr/bin/awk"
	for name in iptables ip6tables; do ln -sf xtables-nft-multi "$into/usr/sbin/$name"; done
}

# put_accounts DIRECTORY: users, groups and files that an installed system has in /etc.
put_accounts() {
	local into=$1/etc name id=100
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n' >"$into/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$into/group"
	for name in nsd unbound dnsmasq messagebus; do
		id=$((id + 1))
		echo "$name:x:$id:$id::/:/bin/sh" >>"$into/passwd"
		echo "$name:x:$id:" >>"$into/group"
	done
	echo 'hosts: files dns' >"$into/nsswitch.conf"
	echo sotto-guest >"$into/hostname"
	echo '127.0.0.1 localhost' >"$into/hosts"
	echo 'nameserver 192.0.2.53' >"$into/resolv.conf" # not on any network
	rm -f "$into"/{mtab,os-release} && cp "$1/usr/lib/os-release" "$into/"
}

# put_compilers DIRECTORY: the tests compile C clients and build sotto. The compilers in the guest are scripts that copy
# the programs that this machine compiled from the same sources with the same options.
put_compilers() {
	local into=$1 dir=internal/e2e/resolve/testdata triple musl
	triple=$($cc -dumpmachine)
	musl=$(cd "$into" && echo usr/lib/*-linux-musl)
	mkdir -p "$into/compiled"
	$cc -Wall -o "$into/compiled/gcc-libc.c" $dir/libc.c
	$cc -Wall -I "$into/usr/include" -L "$into/usr/lib/$triple" -o "$into/compiled/gcc-cares.c" $dir/cares.c -lcares
	$cc -Wall -static -nostdinc -nostdlib -no-pie -isystem "$into/usr/include/${musl##*/}" -o "$into/compiled/musl-gcc-libc.c" \
		"$into/$musl"/crt{1,i}.o $dir/libc.c -L "$into/$musl" -Wl,--start-group -lc -lgcc -Wl,--end-group "$into/$musl/crtn.o"
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

# put_java DIRECTORY: with SOTTO_VM_JAVA=1 a Java runtime with only java.base, and the compiled client, if this machine has
# a JDK and the guest its architecture. Its javac is a script like the other compilers.
put_java() {
	local into=$1
	[[ ${SOTTO_VM_JAVA:-} == 1 ]] || return 0
	if [[ $arch != "$(dpkg --print-architecture)" ]] || ! command -v jlink >/dev/null || ! command -v javac >/dev/null; then
		note "without Java: a JDK with jlink for $arch is not installed"
		return
	fi
	jlink --add-modules java.base --strip-java-debug-attributes --no-header-files --no-man-pages --output "$into/java"
	"$into/java/bin/java" -Xshare:dump >/dev/null # a smaller startup time, which matters under emulation
	ln -s /java/bin/java "$into/usr/bin/java"
	javac -d "$into/compiled" internal/e2e/resolve/testdata/Lookup.java
	cat >"$into/usr/bin/javac" <<-'END'
		#!/bin/sh
		exec cp /compiled/Lookup.class "$2/"
	END
	chmod 755 "$into/usr/bin/javac"
}

# go_for CGO ARGUMENT…: runs go for the guest.
go_for() { CGO_ENABLED=$1 CC=$cc GOARCH=$arch go "${@:2}"; }

# make_guest DIRECTORY: everything in the guest that does not depend on the kernel, except tests.
make_guest() {
	local into=$1
	put_packages "$into"
	mkdir -p "$into"/{dev,proc,sys,tmp,run,var,root,etc,mnt,src}
	rm -rf "$into/var/run" && ln -s /run "$into/var/run"
	put_accounts "$into"
	cp scripts/vm-guest.sh "$into/init"
	go_for 0 build -trimpath -ldflags '-s -w' -o "$into/usr/bin/sotto" ./cmd/sotto
	put_compilers "$into"
	put_java "$into"
	rm -rf "$into"/usr/include "$into"/usr/lib/*/*.a "$into"/usr/lib/*-linux-musl
	# Some tests read files of their packages.
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$into/src" -xf -
}

# make_tests DIRECTORY PACKAGE…: compiles the tests of packages.
make_tests() {
	local into=$1 package cgo
	mkdir -p "$into"
	for package in "${@:2}"; do
		# The C library's resolver is one of its clients.
		cgo=0
		[[ $package != internal/e2e/local ]] || cgo=1
		go_for $cgo test -c -trimpath -ldflags '-s -w' -o "$into/${package//\//-}" "./$package"
	done
}

# archive DIRECTORY: prints an initramfs with its files. The kernel unpacks several ones after each other.
archive() { (cd "$1" && find . | cpio --quiet -o -H newc); }
