# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Root file systems of distributions, with systemd as PID 1 in namespaces. Source this file after lib.sh and
# lib-containers.sh. The functions use $work, a temporary directory, and $cgroup, a name for the cgroup of the test.

# "NAME DISTRIBUTION SUITE MIRROR". An empty mirror is the one that apt uses here.
# shellcheck disable=SC2034 # used by the scripts
readonly ROOTS=(
	"debian12 debian bookworm http://deb.debian.org/debian"
	"debian13 debian trixie http://deb.debian.org/debian"
	"ubuntu24.04 ubuntu noble http://archive.ubuntu.com/ubuntu"
)
readonly ROOT_PACKAGES=systemd-sysv,dbus,iproute2,procps,bind9-dnsutils,dnsperf

work=${work:-} cgroup=${cgroup:-} roots=${roots:-}

# make_root NAME DISTRIBUTION SUITE MIRROR: writes $roots/NAME.tar unless it exists. It reports false, with a note, if the
# mirror cannot be reached.
make_root() {
	local name=$1 distribution=$2 suite=$3 mirror=$4 keyring=/usr/share/keyrings/$2-archive-keyring.gpg
	[[ ! -s $roots/$name.tar ]] || return 0
	python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=20)' "$mirror/dists/$suite/InRelease" 2>/dev/null ||
		{ note "$mirror cannot be reached" && return 1; }
	if [[ ! -e $keyring ]]; then
		fetch_from trixie "$work/keyring" ubuntu-keyring
		keyring=$work/keyring$keyring
	fi
	local components=main
	[[ $distribution != ubuntu ]] || components=main,universe # dnsperf
	mmdebstrap --quiet --mode=root --variant=minbase --components=$components --keyring="$keyring" --include=$ROOT_PACKAGES \
		"$suite" "$roots/$name.tar.tmp.tar" "$mirror" >"$work/mmdebstrap.log" 2>&1 || { cat "$work/mmdebstrap.log" >&2 && die "mmdebstrap $suite failed"; }
	mv "$roots/$name.tar.tmp.tar" "$roots/$name.tar"
}

# boot ROOT: runs the systemd of a root file system in new namespaces. Its network namespace is that of the caller, and its
# cgroups are below $cgroup, but it sees the whole hierarchy, as Sotto requires: Sotto must not start in it without a
# configuration that names cgroups below $cgroup. Sets init, its PID.
boot() {
	local root=$1 top
	top=$(cgroup2)/$cgroup
	mkdir -p "$top"
	# shellcheck disable=SC2016 # expanded by the inner shell
	bash -c 'echo $$ >"$1/cgroup.procs" && exec unshare --mount --uts --ipc --pid --fork --kill-child --propagation private bash "$2" boot "$3"' \
		boot "$top" "$0" "$root" >"$work/boot.log" 2>&1 &
	booter=$!
	wait_for 60 "the first process of $root" pgrep -P $booter
	init=$(pgrep -P $booter)
	defer show_boot
	wait_for 240 "systemd in $root" booted
	up=1
}
# show_boot: prints the log of a systemd that did not start.
show_boot() { [[ -n $up ]] || { cat "$work/boot.log" && inside_root systemctl list-jobs; } >&2; }
up=
# booted: degraded, if a unit failed that namespaces do not allow, as systemd-modules-load.service.
booted() { [[ $(inside_root systemctl is-system-running) =~ ^(running|degraded)$ ]]; }

# become_init ROOT: mounts what systemd expects, makes ROOT the root file system, and executes systemd.
become_init() {
	local root=$1 node
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	mount -t bpf bpf "$root/sys/fs/bpf"
	mount -t tmpfs -o mode=755 tmpfs "$root/run"
	mount -t tmpfs -o mode=755 tmpfs "$root/dev"
	for node in null zero full random urandom tty; do
		touch "$root/dev/$node"
		mount --bind "/dev/$node" "$root/dev/$node"
	done
	mkdir "$root/dev/pts" "$root/dev/shm"
	mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	mount -t tmpfs tmpfs "$root/dev/shm"
	cd "$root" || exit
	pivot_root . mnt
	umount -l /mnt
	exec env -i container=sotto-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console --show-status=no
}

# inside_root COMMAND…: runs a command in the root file system, in the namespaces of its systemd but not as one of its units.
inside_root() { nsenter -t "$init" --mount --uts --ipc --pid --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

# as_unit COMMAND…: runs a command as a unit, as from a login.
as_unit() { inside_root systemd-run --quiet --pipe --wait --collect -E DEBIAN_FRONTEND=noninteractive "$@"; }

# halt: stops systemd and everything in its namespaces.
halt() {
	kill -KILL "$init" 2>/dev/null || true
	wait "$booter" 2>/dev/null || true
}
