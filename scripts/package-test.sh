#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests the packages and install.sh: checks them with lintian and rpm, and installs, upgrades under load and purges the deb in root file
# systems of Debian 12, Debian 13 and Ubuntu 24.04, each with its own systemd in namespaces without external connectivity.
# The upgrade is from the version before (SOTTO_BEFORE) and loses no query. A few minutes; not part of scripts/test.sh.
#
#   sudo ./scripts/package-test.sh [NAME…]       default: debian12 debian13 ubuntu24.04
#
#   SOTTO_BEFORE=COMMIT   the version to upgrade from, of a git checkout; default: see BEFORE below
#   SOTTO_ROOTS=DIR       keeps the root file systems there; the next run uses them
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-containers.sh
. scripts/lib-roots.sh
. scripts/lib-release.sh

packages=(
	"mmdebstrap mmdebstrap"
	"lintian lintian"
	"rpm rpm"
	"ip iproute2"
	"dig bind9-dnsutils"
	"tcpdump tcpdump"
	"busybox busybox-static"
	"python3 python3"
	"pgrep procps"
	"/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring"
)

# The last commit without packages.
readonly BEFORE=25f4d85

# ---- static checks ---------------------------------------------------------------------------------------

check_deb() {
	local out
	out=$(lintian --allow-root --fail-on error,warning "$1" 2>&1) || { printf '%s\n' "$out" >&2 && die "lintian: $1"; }
	note "lintian: ${1##*/}: no errors, no warnings"
}

# check_rpm RPM: verifies digests, and installs, upgrades and erases the package in an empty root with busybox.
check_rpm() {
	local root=$work/rpm options=(--root "$work/rpm" --dbpath /rpmdb)
	rpm -K --nosignature "$1" >/dev/null || die "rpm -K $1 failed"
	busybox_root "$root"
	mkdir "$root/dev" && mknod -m 666 "$root/dev/null" c 1 3
	rpm "${options[@]}" -i --nodeps "$1" >"$work/rpm.log" 2>&1 || { cat "$work/rpm.log" >&2 && die "rpm -i $1 failed"; }
	grep -q 'neither enabled nor started' "$work/rpm.log" || die "rpm -i $1 printed no message"
	rpm "${options[@]}" -V --nodeps sotto || die "rpm -V sotto: files differ after the installation"
	rpm "${options[@]}" -qc sotto | grep -cx -e /etc/sotto/sotto.toml -e /etc/sotto/serve.toml | grep -qx 2 || die "the rpm does not mark its configuration"
	[[ -r $root/usr/share/doc/sotto/sotto.toml ]] || die "the rpm lacks the reference of the settings"
	rpm "${options[@]}" -U --nodeps --force "$1"
	rpm "${options[@]}" -e --nodeps sotto
	[[ -z $(find "$root" -name '*sotto*') ]] || { find "$root" -name '*sotto*' >&2 && die "rpm -e left files"; }
	note "rpm: ${1##*/}: digests, installation, verification, upgrade, removal"
}

# check_apk APK: verifies the three parts and the digest of the data, without apk-tools, which Debian lacks.
check_apk() {
	python3 - "$1" <<-'END' || die "$1 is not a valid apk"
		import gzip, hashlib, io, subprocess, sys, tarfile, zlib
		raw, parts = open(sys.argv[1], "rb").read(), []
		while raw:
		    d = zlib.decompressobj(31)
		    text = d.decompress(raw) + d.flush()
		    parts.append((raw[:len(raw) - len(d.unused_data)], text))
		    raw = d.unused_data
		control, data = parts[-2:]
		t = tarfile.open(fileobj=io.BytesIO(control[1] + b"\0" * 1024))
		info = dict(l.split(" = ", 1) for l in t.extractfile(".PKGINFO").read().decode().splitlines() if " = " in l)
		assert info["datahash"] == hashlib.sha256(data[0]).hexdigest(), "datahash"
		for name in t.getnames():
		    if name != ".PKGINFO":
		        subprocess.run(["sh", "-n"], input=t.extractfile(name).read(), check=True)
		assert {".post-install", ".post-upgrade", ".pre-deinstall"} <= set(t.getnames()), t.getnames()
		files = tarfile.open(fileobj=io.BytesIO(data[1])).getnames()
		assert "usr/bin/sotto" in files and "etc/init.d/sotto" in files and "usr/share/doc/sotto/sotto.toml" in files, files
	END
	note "apk: ${1##*/}: parts, data digest, scripts (not installed: Debian has no apk-tools)"
}

# ---- a root with systemd ---------------------------------------------------------------------------------

# list_files ROOT: lists all files that a package could leave.
list_files() {
	(cd "$1" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp -o -path ./var/tmp \
		-o -path ./var/lib/dpkg -o -path ./var/log/dpkg.log -o -path ./var/log/journal -o -path ./var/cache/ldconfig \) -prune -o -print | sort)
}

# test_chroot ROOT: installation and purge without a running systemd, as in the build of an image.
test_chroot() {
	local root=$1
	list_files "$root" >"$work/before"
	chroot "$root" dpkg -i "/pkg/${new##*/}" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2 && die "dpkg -i failed"; }
	[[ -z $(find "$root/etc/systemd/system" -name 'sotto*') ]] || die "the installation enabled a unit"
	chroot "$root" sotto version >/dev/null || die "the installed program does not run"
	chroot "$root" dpkg --purge sotto >>"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2 && die "dpkg --purge failed"; }
	no_leftovers "$root"
	note "without systemd: installed, nothing enabled, purged, nothing left"
}

no_leftovers() {
	local left
	list_files "$1" >"$work/after"
	left=$(comm -13 "$work/before" "$work/after")
	[[ -z $left ]] || { printf '%s\n' "$left" >&2 && die "the purge left files"; }
	! grep -q '^sotto:' "$1/etc/group" || die "the purge left the group"
}

# test_install_script ROOT: install.sh from a release folder and from the unpacked archive, its refusals, and its removal.
test_install_script() {
	local root=$1 dir=/pkg/release name
	name=$(basename "$work"/release/*.tar.gz)
	cp -r "$work/release" scripts/install.sh "$root/pkg/"
	chroot "$root" sh /pkg/install.sh --from $dir >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2 && die "install.sh --from a folder failed"; }
	[[ $(chroot "$root" sotto version) == "sotto $new_version "* ]] || die "install.sh installed another version"
	grep -q '^sotto:' "$root/etc/group" || die "install.sh did not create the group"
	grep -q '^ExecStart=/usr/local/bin/sotto' "$root/etc/systemd/system/sotto.service" || die "the unit starts another program"
	echo '# changed' >>"$root/etc/sotto/sotto.toml"
	echo /usr/local/share/man/man8/sotto-old.8 >>"$root/usr/local/share/sotto/installed"
	touch "$root/usr/local/share/man/man8/sotto-old.8"
	tar -C "$root/pkg" -xzf "$work/release/$name"
	chroot "$root" sh "/pkg/sotto-$new_version/install.sh" >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2 && die "install.sh failed in an archive"; }
	[[ ! -e $root/usr/local/share/man/man8/sotto-old.8 ]] || die "install.sh left a file of the version before"
	grep -q '^# changed' "$root/etc/sotto/sotto.toml" || die "install.sh replaced a changed configuration"
	chroot "$root" sh /pkg/install.sh --uninstall --purge >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2 && die "install.sh --uninstall failed"; }
	! grep -q '^sotto:' "$root/etc/group" || die "install.sh --uninstall --purge left the group that it had created"
	# A group of the administrator stays. With OpenRC, the script installs its service and prints its commands.
	chroot "$root" groupadd --system sotto
	install -m 755 /dev/null "$root/sbin/openrc-run"
	chroot "$root" sh /pkg/install.sh --from $dir >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2 && die "install.sh --from a folder failed with a group"; }
	rm "$root/sbin/openrc-run"
	{ [[ -x $root/etc/init.d/sotto ]] && grep -q 'rc-service sotto start' "$work/install.log"; } || die "install.sh ignored OpenRC"
	chroot "$root" sh /pkg/install.sh --uninstall --purge >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2 && die "install.sh --uninstall failed"; }
	grep -q '^sotto:' "$root/etc/group" || die "install.sh --uninstall --purge removed a group that it had not created"
	chroot "$root" groupdel sotto
	# Damaged archives and files are refused, and nothing is installed.
	printf x | dd of="$root$dir/$name" bs=1 seek=1000 conv=notrunc status=none
	! chroot "$root" sh /pkg/install.sh --from $dir >"$work/install.log" 2>&1 || die "install.sh accepted a damaged archive"
	grep -q 'does not match SHA256SUMS' "$work/install.log" || die "install.sh: $(cat "$work/install.log")"
	echo >>"$root/pkg/sotto-$new_version/sotto.toml"
	! chroot "$root" sh "/pkg/sotto-$new_version/install.sh" >"$work/install.log" 2>&1 || die "install.sh accepted a damaged file"
	! chroot "$root" sh /pkg/install.sh --from http://192.0.2.1/ >"$work/install.log" 2>&1 || die "install.sh accepted http"
	rm -rf "$root/pkg/release" "$root/pkg/install.sh" "$root/pkg/sotto-$new_version"
	rmdir "$root"/usr/local/share/{man/man8,bash-completion/completions,bash-completion,zsh/site-functions,zsh,fish/vendor_completions.d,fish} 2>/dev/null || true
	no_leftovers "$root"
	note "install.sh: folder, archive, refusals, removal"
}

# install_deb DEB: installs or upgrades, as an administrator does.
install_deb() { as_unit dpkg --force-confold -i "/pkg/${1##*/}" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2 && die "dpkg -i ${1##*/} failed"; }; }

# load NAME COMMAND…: runs a client in the sealed slice until stop_load.
load() {
	local name=$1
	shift
	inside_root systemd-run --quiet --slice=load --unit="load-$name" -p StandardOutput="file:/var/tmp/load-$name" -p StandardError="file:/var/tmp/load-$name" "$@"
}

start_load() {
	local root=$1
	printf 'www%d.example A\n' $(seq 400) >"$root/var/tmp/names"
	# Each dig and each run of dnsperf uses new sockets; dnsperf keeps its own, over UDP and TCP.
	cat >"$root/var/tmp/digs" <<-END
		asked=0 lost=0
		trap 'echo "asked \$asked lost \$lost"; exit' TERM
		while :; do
			asked=\$((asked + 1))
			dig +short +time=20 +tries=1 @$LAN_DNS dig\$asked.example A | grep -q '^[0-9]' || { lost=\$((lost + 1)) && echo "lost dig\$asked at \$(date +%T.%N)"; }
		done
	END
	load udp dnsperf -s $LAN_DNS -d /var/tmp/names -Q 150 -l 600 -t 20 -c 20
	load tcp dnsperf -s $LAN_DNS -d /var/tmp/names -Q 50 -l 600 -t 20 -c 5 -m tcp
	load digs sh /var/tmp/digs
}

# stop_load ROOT: stops the clients and fails if they lost a query.
stop_load() {
	local root=$1 name sent lost
	inside_root systemctl kill --signal=INT load-udp load-tcp
	inside_root systemctl kill --kill-whom=main --signal=TERM load-digs 2>/dev/null || inside_root systemctl kill --kill-who=main --signal=TERM load-digs
	wait_for 120 "the clients" idle
	for name in udp tcp; do
		sent=$(sed -n 's/.*Queries sent: *//p' "$root/var/tmp/load-$name") lost=$(sed -n 's/.*Queries lost: *\([0-9]*\).*/\1/p' "$root/var/tmp/load-$name")
		[[ ${sent:-0} -gt 0 && $lost == 0 ]] || { cat "$root/var/tmp/load-$name" >&2 && die "dnsperf over $name lost ${lost:-?} of ${sent:-?} queries"; }
		grep -q 'Response codes: *NOERROR [0-9]* (100.00%)' "$root/var/tmp/load-$name" || { cat "$root/var/tmp/load-$name" >&2 && die "dnsperf over $name: errors"; }
		note "dnsperf over $name: $sent queries, 0 lost"
	done
	grep -q 'lost 0$' "$root/var/tmp/load-digs" || { cat "$root/var/tmp/load-digs" >&2 && die "dig lost queries"; }
	note "dig: $(tail -n1 "$root/var/tmp/load-digs")"
}
idle() { [[ -z $(inside_root systemctl list-units --no-legend --state=active,deactivating 'load-*.service') ]]; }

running_version() { as_unit sotto status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])'; }

# test_upgrade ROOT: the version before, sealed and under load, then the upgrade.
test_upgrade() {
	local root=$1 version
	boot "$root"
	note "$(. "$root/etc/os-release" && echo "$PRETTY_NAME"), $(inside_root systemctl --version | head -n1)"
	# A seal of the root cgroup would cover this whole machine.
	mkdir -p "$root/etc/systemd/system/sotto.service.d"
	printf "[Service]\nExecCondition=grep -q '^cgroups = ../%s/' /etc/sotto/sotto.toml\n" "$cgroup" >"$root/etc/systemd/system/sotto.service.d/test.conf"
	install_deb "$old"
	cp "$work/ca.pem" "$root/etc/sotto/ca.pem"
	cat >"$root/etc/sotto/sotto.toml" <<-END
		upstream = ["$UPSTREAM"]
		ca-file = "/etc/sotto/ca.pem"
		cgroups = ["/$cgroup/load.slice"]
		cache-file = "/var/lib/sotto/cache"
		query-log = "/var/log/sotto/queries"
	END
	inside_root systemctl start load.slice
	inside_root systemctl enable --now --quiet sotto || { inside_root journalctl --no-pager -o cat -u sotto >&2 && die "sotto did not start"; }
	wait_for 120 "the seal" as_unit sotto status --ready
	start_capture
	start_load "$root"
	sleep 3
	install_deb "$new"
	grep -q '^#upstream' "$root/etc/sotto/sotto.toml" && die "the upgrade replaced the changed configuration"
	version=$(running_version)
	[[ $version == "$new_version" ]] ||
		{ inside_root journalctl --no-pager -o cat -u sotto >&2 && die "the running version is $version after the upgrade, want $new_version"; }
	[[ $(inside_root systemctl is-active sotto) == active ]] || die "sotto.service is not active after the upgrade"
	sleep 3
	stop_load "$root"
	end_capture "upgraded from ${old##*/} to ${new##*/}"
	# Again, from this version to itself: the next upgrade.
	start_capture
	start_load "$root"
	sleep 2
	as_unit dpkg --force-confold -i "/pkg/${next##*/}" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2 && die "dpkg -i ${next##*/} failed"; }
	[[ $(running_version) == "$next_version" ]] || die "the running version is $(running_version) after the second upgrade, want $next_version"
	sleep 2
	stop_load "$root"
	end_capture "upgraded from ${new##*/} to ${next##*/}"
}

# test_refusal: a removal is refused while Sotto runs outside its service, and opens a seal that a crash left closed.
test_refusal() {
	inside_root systemctl stop sotto
	inside_root systemd-run --quiet --unit=manual -p RuntimeDirectory=sotto sotto run
	wait_for 120 "the seal" as_unit sotto status --ready
	! as_unit dpkg --remove sotto >"$work/dpkg.log" 2>&1 || die "dpkg removed a running Sotto"
	grep -q 'stop it and try again' "$work/dpkg.log" || { cat "$work/dpkg.log" >&2 && die "dpkg --remove failed without a fix"; }
	as_unit sotto status --ready || die "the refused removal stopped Sotto"
	inside_root systemctl kill --signal=KILL manual
	wait_for 30 "the crash" crashed
	[[ -n $(kernel_leftovers) ]] || die "the crash left nothing, so the removal does not test anything"
}
crashed() { [[ $(inside_root systemctl show -P ActiveState manual) == failed ]]; }

# test_purge ROOT: the removal leaves nothing in the kernel, not even after a crash; the purge leaves nothing in the file system.
test_purge() {
	local root=$1 left
	test_refusal
	as_unit dpkg --remove sotto >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2 && die "dpkg --remove failed"; }
	left=$(kernel_leftovers)
	[[ -z $left ]] || { printf '%s\n' "$left" >&2 && die "the removal left these in the kernel"; }
	[[ -e $root/etc/sotto/sotto.toml && -d $root/var/lib/sotto ]] || die "the removal removed configuration or state; only a purge may"
	as_unit dpkg --purge sotto >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2 && die "dpkg --purge failed"; }
	[[ -z $(inside_root find /run -name '*sotto*' ! -path '/run/user/*') ]] || { inside_root find /run -name '*sotto*' >&2 && die "the purge left files in /run"; }
	halt
	rm -rf "$root/etc/systemd/system/sotto.service.d" "$root"/var/tmp/load-* "$root"/var/tmp/names "$root"/var/tmp/digs
	no_leftovers_after_boot "$root"
	note "removal refused while running, crashed, removed, purged: nothing left in /etc, /usr, /var, /run, bpffs, links, rules, namespaces"
}

# no_leftovers_after_boot ROOT: as no_leftovers, but systemd has created files of its own since.
no_leftovers_after_boot() {
	list_files "$1" >"$work/after"
	local left
	left=$(comm -13 "$work/before" "$work/after" | grep -i sotto || true)
	[[ -z $left ]] || { printf '%s\n' "$left" >&2 && die "the purge left files"; }
	! grep -q '^sotto:' "$1/etc/group" || die "the purge left the group"
}

# kernel_leftovers: prints what of Sotto is in the kernel.
kernel_leftovers() {
	inside_root find /sys/fs/bpf -mindepth 1 ! -name '*.debug'
	ip -o link | grep -i sotto || true
	{ ip rule && ip -6 rule && ip route show table all && ip -6 route show table all; } | grep -e 198.19 -e fd73 || true
	inside_root ps -e -o args | grep '^/usr/bin/sotto' || true
}

# ---- one distribution ------------------------------------------------------------------------------------

inside() {
	work=$1 cgroup=$2 name=$3 old=$4 new=$5 next=$6 roots=$7
	new_version=$8 next_version=$9
	local root=$work/root
	mkdir "$root"
	tar -C "$root" -xf "$roots/$name.tar"
	mkdir "$root/pkg"
	cp "$old" "$new" "$next" "$root/pkg"
	make_lan
	test_chroot "$root"
	test_install_script "$root"
	defer halt
	test_upgrade "$root"
	test_purge "$root"
}

case ${1:-} in
boot)
	become_init "$2"
	exit
	;;
inside)
	shift
	inside "$@"
	exit
	;;
esac

# build_before: builds the deb of the version before, from its commit, with the packaging of this tree.
build_before() {
	local commit=${SOTTO_BEFORE:-$BEFORE} tree=$work/before-tree
	mkdir "$tree"
	git -c safe.directory='*' archive "$commit" | tar -C "$tree" -xf - || die "no commit $commit here; set SOTTO_BEFORE to one, in a git checkout"
	cp -r scripts/package.sh scripts/lib-release.sh scripts/lib.sh "$tree/scripts/"
	mkdir -p "$tree/deploy/packages" && cp -r deploy/packages/. "$tree/deploy/packages/"
	cp CHANGELOG.md "$tree/"
	SOTTO_NFPM=$nfpm "$tree/scripts/package.sh" --version 0.0.9 --out "$work/debs"
}

need_root
install_missing "${packages[@]}"
ensure_go
work=$(mktemp -d /var/tmp/sotto-package-test.XXXXXX)
roots=${SOTTO_ROOTS:-$work/roots}
cgroup=sotto-package-$$
mkdir -p "$roots"
defer rm -rf --one-file-system "$work"
defer remove_cgroups "$cgroup"
build

say "packages"
nfpm=$(packaging_tool nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm)
export SOTTO_NFPM=$nfpm
scripts/package.sh --version 0.1.0 --format deb,rpm,apk --out "$work/debs" | sed 's/^/   /'
scripts/package.sh --version 0.1.1 --out "$work/debs" | sed 's/^/   /'
build_before | sed 's/^/   /'
source_date
mkdir "$work/release"
build_release 0.1.0 "$(go env GOHOSTARCH)" "$work/sotto"
archive 0.1.0 "$(go env GOHOSTARCH)" "$work/sotto" "$work/sotto" "$work/release"
(cd "$work/release" && sha256sum -- * >SHA256SUMS)
check_deb "$work"/debs/sotto_0.1.0-1_*.deb
check_rpm "$work"/debs/sotto-0.1.0-1.*.rpm
check_apk "$work"/debs/sotto_0.1.0*.apk

wanted=("$@")
((${#wanted[@]} > 0)) || mapfile -t wanted < <(printf '%s\n' "${ROOTS[@]}" | cut -d' ' -f1)
failed=''
for line in "${ROOTS[@]}"; do
	read -r name distribution suite mirror <<<"$line"
	[[ " ${wanted[*]} " == *" $name "* ]] || continue
	say "$name"
	make_root "$name" "$distribution" "$suite" "$mirror" || { say "SKIPPED $name: no mirror" && continue; }
	sandbox_pid bash "$0" inside "$work" "$cgroup" "$name" "$work"/debs/sotto_0.0.9-1_*.deb "$work"/debs/sotto_0.1.0-1_*.deb \
		"$work"/debs/sotto_0.1.1-1_*.deb "$roots" 0.1.0 0.1.1 || failed="$failed $name"
	rm -rf --one-file-system "$work/root"
	remove_cgroups "$cgroup"
done
[[ -z $failed ]] || die "failed:$failed"
say "package-test: passed in $SECONDS s"
