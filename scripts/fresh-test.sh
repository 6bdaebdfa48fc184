#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Are two commands all it takes? Makes a fresh minimal Debian (or Ubuntu) with debootstrap, clones this tree's HEAD into it and
# runs scripts/demo.sh and scripts/test.sh there, as root, with no Go and no tool but Debian's own. About twenty
# minutes; not part of scripts/test.sh. The root shares this machine's kernel and network, nothing else.
#
#   sudo ./scripts/fresh-test.sh [SUITE [COMMAND…]]      default: bookworm, ./scripts/demo.sh then ./scripts/test.sh
#
#   SOTTO_MIRROR=URL, SOTTO_DEBOOTSTRAP=WORDS: where from, and what else debootstrap is told. Ubuntu, on Ubuntu:
#   SOTTO_MIRROR=http://archive.ubuntu.com/ubuntu SOTTO_DEBOOTSTRAP=--components=main,universe scripts/fresh-test.sh noble
#   SOTTO_SKIP_DOCKER, SOTTO_FUZZTIME: as in scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# What this machine needs to get out at all, the fresh one needs too: resolver, apt's proxy, authorities of its own.
copy_way_out() {
	local root=$1
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	apt-config dump | grep -i '^Acquire::.*proxy' >"$root/etc/apt/apt.conf.d/90way-out" || true
	if [[ -d /usr/local/share/ca-certificates ]]; then
		mkdir -p "$root/usr/local/share/ca-certificates"
		cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
	fi
}

# inside ROOT COMMAND…: mounts of its own, gone with it. /run is the fresh root's.
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
	# A login's words and no more: what the caller has set for Go or apt is not what a fresh machine has.
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
copy_way_out "$work/root"
git clone --quiet "file://$PWD" "$work/root/root/sotto"
say "in the fresh $suite, from a clone of $(git rev-parse --short HEAD): ${*:-./scripts/demo.sh, then ./scripts/test.sh}"
unshare --mount --propagation private \
	bash "$0" inside "$work/root" "${*:-./scripts/demo.sh; ./scripts/test.sh}"
say "fresh-test $suite: passed in $SECONDS s"
