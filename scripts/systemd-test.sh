#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests the systemd units under a real systemd: boots Debian in namespaces without external connectivity, installs the
# package there, and runs systemd-guest.sh with a seal of that system's slice. About five minutes; not part of
# scripts/test.sh. vagrant-test.sh runs the same steps in a virtual machine, with a seal of the whole host.
#
#   sudo ./scripts/systemd-test.sh [STEP…]     default: all of start crash watchdog reload control_group restart
#                                              failed_restart unit filters serve stop purge; start has to be the first
#
#   SOTTO_SUITE=trixie     another suite of Debian (default bookworm)
#   SOTTO_CACHE=DIR        where Debian is kept between runs (default /var/cache/sotto-test); delete it to build it again
#
# Removes everything afterwards except the installed packages and the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-guest-root.sh

readonly guest_packages="systemd-sysv dbus udev iproute2 procps bind9-dnsutils tcpdump libbpf1"

# boot ROOT CGROUP: becomes systemd, PID 1 of its namespaces, in the cgroup.
boot() {
	local root=$1 cgroup=$2 dev
	echo 0 >"$cgroup/cgroup.procs"
	mount --bind "$root" "$root"
	cd "$root"
	mount -t proc proc proc
	mount -t sysfs sysfs sys
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	mount -t bpf bpf sys/fs/bpf
	mount -t tmpfs -o mode=755 tmpfs run
	mount -t tmpfs -o mode=755 tmpfs dev
	mkdir -p dev/shm dev/pts dev/net
	for dev in null zero full random urandom tty net/tun; do
		touch "dev/$dev"
		mount --bind "/dev/$dev" "dev/$dev"
	done
	mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	ip link set lo up
	pivot_root . mnt
	umount --lazy /mnt
	exec env -i container=sotto-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=journal --show-status=no
}

# inside COMMAND…: runs a command in the booted system.
inside() { nsenter --target "$init" --mount --pid --net --uts --ipc --root --wd -- "$@"; }

booted() { inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; }

# start_guest: boots the system and waits until it is up.
start_guest() {
	say "boot $suite in namespaces"
	unshare --mount --pid --fork --kill-child --net --uts --ipc --propagation private "$0" boot "$work/root" "$cgroup" </dev/null >"$work/log" 2>&1 &
	unshared=$!
	defer stop "$unshared"
	wait_for 30 "PID 1 of the namespaces" pgrep -P "$unshared"
	init=$(pgrep -P "$unshared")
	wait_for 300 "systemd to boot" booted
}

# stop_guest: shuts the system down.
stop_guest() {
	say "shut down"
	inside systemctl --no-block poweroff
	wait "$unshared" || true
	wait_for 30 "the processes in $cgroup to exit" grep -q '^populated 0' "$cgroup/cgroup.events"
}

# remove_cgroup DIR: removes the cgroup and those below it, when their processes have exited.
remove_cgroup() {
	wait_for 30 "the processes in $1 to exit" grep -q '^populated 0' "$1/cgroup.events"
	find "$1" -depth -type d -exec rmdir {} +
}

if [[ ${1:-} == boot ]]; then
	boot "$2" "$3"
fi
need_root
install_missing "mmdebstrap mmdebstrap" "tar tar" "ip iproute2"
ensure_go
unified=$(awk '$(NF-2) == "cgroup2" { print $5; exit }' /proc/self/mountinfo)
[[ -n $unified ]] || die "no cgroup2 hierarchy is mounted; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
[[ -e /dev/net/tun ]] || die "/dev/net/tun does not exist: load the module tun"
suite=${SOTTO_SUITE:-bookworm}
say "package and client"
deb=$(./scripts/package.sh | tail -n1)
work=$(mktemp -d /var/tmp/sotto-systemd.XXXXXX)
defer rm -rf --one-file-system "$work"
CGO_ENABLED=0 go test -c -o "$work/load.test" ./internal/e2e/takeover
cached_root "$suite" "$guest_packages"
mkdir "$work/root"
tar -C "$work/root" --numeric-owner -xf "$root_tar"
mkdir -p "$work/root/opt/sotto"
cp -a go.mod scripts "$work/root/opt/sotto/"
cp "$deb" "$work/load.test" "$work/root/opt/sotto/"
: >"$work/root/etc/machine-id"

cgroup=$unified/sotto-systemd-$$
mkdir "$cgroup"
defer remove_cgroup "$cgroup"
guest_args=("/opt/sotto/$(basename "$deb")" /opt/sotto/load.test "/$(basename "$cgroup")")
start_guest
note "$(inside systemctl --version | head -n1), $(inside systemctl is-system-running || true)"
inside env SOTTO_STEPS=install /opt/sotto/scripts/systemd-guest.sh "${guest_args[@]}"
stop_guest
start_guest
inside /opt/sotto/scripts/vagrant-lan.sh check || die "not sealed from the first query after the boot; see above"
inside env SOTTO_STEPS="$*" /opt/sotto/scripts/systemd-guest.sh "${guest_args[@]}" || die "a step failed in the guest; see above"
say "systemd-test: passed in $SECONDS s"
