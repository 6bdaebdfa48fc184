#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests demo.sh and test.sh on a fresh system: creates a minimal Debian or Ubuntu with debootstrap, clones HEAD into it and
# runs both scripts there as root, without Go or other preinstalled tools. The system shares only kernel and network with
# this machine. About twenty minutes; not part of scripts/test.sh.
#
#   sudo ./scripts/fresh-test.sh [SUITE [COMMAND…]]      default: bookworm, ./scripts/demo.sh then ./scripts/test.sh
#
#   SOTTO_MIRROR=URL, SOTTO_DEBOOTSTRAP=OPTIONS: mirror and additional options for debootstrap. For Ubuntu, on Ubuntu:
#   SOTTO_MIRROR=http://archive.ubuntu.com/ubuntu SOTTO_DEBOOTSTRAP=--components=main,universe scripts/fresh-test.sh noble
#   SOTTO_SKIP_DOCKER, SOTTO_FUZZTIME: as in scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# copy_network_config ROOT: copies the settings for internet access: resolver, apt's proxy, local CA certificates.
copy_network_config() {
	local root=$1
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	apt-config dump | grep -i '^Acquire::.*proxy' >"$root/etc/apt/apt.conf.d/90proxy" || true
	if [[ -d /usr/local/share/ca-certificates ]]; then
		mkdir -p "$root/usr/local/share/ca-certificates"
		cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
	fi
}

# inside ROOT COMMAND…: runs COMMAND in ROOT, in the new mount namespace. /run is a directory of ROOT.
inside() {
	local root=$1
	shift
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount --rbind /sys "$root/sys"
	mount -t tmpfs -o mode=755 tmpfs "$root/dev"
	tar -C /dev -c null zero full random urandom tty fuse net/tun 2>/dev/null | tar -C "$root/dev" -x || true
	mkdir -p "$root/dev/pts" "$root/dev/shm"
	mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
	cd "$root"
	mkdir -p .old
	pivot_root . .old
	umount --lazy /.old
	rmdir /.old
	cd /root/sotto
	# Only the environment of a login shell, without the caller's settings for Go and apt.
	exec env -i HOME=/root TERM=dumb LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		${SOTTO_SKIP_DOCKER:+SOTTO_SKIP_DOCKER=$SOTTO_SKIP_DOCKER} ${SOTTO_FUZZTIME:+SOTTO_FUZZTIME=$SOTTO_FUZZTIME} \
		bash -euc "$*"
}

if [[ ${1:-} == inside ]]; then
	shift
	inside "$@"
fi
need_root
suite=${1:-bookworm}
shift || true
install_missing "debootstrap debootstrap" "git git"
work=$(mktemp -d /var/tmp/sotto-fresh.XXXXXX)
defer rm -rf --one-file-system "$work"
say "debootstrap --variant=minbase $suite"
# shellcheck disable=SC2086 # words
debootstrap --variant=minbase ${SOTTO_DEBOOTSTRAP:-} "$suite" "$work/root" "${SOTTO_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1 ||
	{ tail "$work/debootstrap.log" && die "debootstrap failed"; }
copy_network_config "$work/root"
git clone --quiet "file://$PWD" "$work/root/root/sotto"
say "in $suite, from a clone of $(git rev-parse --short HEAD): ${*:-./scripts/demo.sh, then ./scripts/test.sh}"
unshare --mount --propagation private \
	bash "$0" inside "$work/root" "${*:-./scripts/demo.sh; ./scripts/test.sh}"
say "fresh-test $suite: passed in $SECONDS s"
