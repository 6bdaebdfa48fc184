#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs a release of Sotto on a system without deb, rpm or apk packages. It enables and starts nothing.
#
#   sudo ./install.sh                    from the unpacked archive that contains this script
#   sudo ./install.sh --from PLACE       PLACE: a folder with archives and SHA256SUMS, one archive (SHA256SUMS beside it), or
#                                        the URL of such a folder (https)
#   sudo ./install.sh --uninstall        stops and removes Sotto; with --purge also configuration, state, logs and the
#                                        group that it has created
#
#   --prefix DIR     default: /usr/local
#   --version V      which version of PLACE; default: the only one
#   DESTDIR=DIR      is prepended to every path, for packagers; nothing is stopped or reloaded then
set -eu

prefix=/usr/local from='' version='' uninstall='' purge=''
root=${DESTDIR:-}

say() { printf '%s\n' "$*"; }
die() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}

usage() { sed -n '5,/^set/s/^# \{0,3\}//p' "$0"; }

while [ $# -gt 0 ]; do
	case $1 in
	--from) from=${2:?} && shift ;;
	--prefix) prefix=${2:?} && shift ;;
	--version) version=${2:?} && shift ;;
	--uninstall) uninstall=1 ;;
	--purge) purge=1 ;;
	-h | --help) usage && exit ;;
	*) die "unknown option $1; see --help" ;;
	esac
	shift
done
[ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge is for --uninstall; see --help"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "writing below $prefix and /etc needs root; use sudo, or set DESTDIR"

manifest=$root$prefix/share/sotto/installed
# Exists if this script has created the group sotto.
group_created=$root$prefix/share/sotto/group-created

has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# ---- removal ---------------------------------------------------------------------------------------------

stop_service() {
	[ -z "$root" ] || return 0
	if has_systemd; then
		systemctl --quiet disable --now sotto.service sotto-serve.socket sotto-serve.service 2>/dev/null || true
	elif command -v rc-service >/dev/null 2>&1 && [ -e /etc/init.d/sotto ]; then
		rc-service --ifstarted sotto stop || true
		rc-update --quiet del sotto 2>/dev/null || true
	fi
	# After a crash the seal stays closed, and without the program no query could be answered: open it.
	if [ -e /sys/fs/bpf/sotto ] || [ -e /run/sotto ]; then
		"$prefix/bin/sotto" down || die "something of Sotto is still in force, see above; stop it and try again"
	fi
}

# remove_group: removes the group, if this script has created it.
remove_group() {
	[ -e "$group_created" ] || return 0
	if command -v groupdel >/dev/null 2>&1; then
		groupdel sotto || true
	elif command -v delgroup >/dev/null 2>&1; then
		delgroup sotto || true
	fi
	rm -f "$group_created"
}

remove() {
	[ -r "$manifest" ] || die "no installation below $prefix: $manifest does not exist; was another --prefix used?"
	stop_service
	while read -r file; do
		rm -f "$root$file"
	done <"$manifest"
	rm -f "$manifest"
	[ -z "$purge" ] || remove_group
	rmdir "$root$prefix/share/sotto" 2>/dev/null || true
	if [ -n "$purge" ]; then
		rm -rf "$root/etc/sotto" "$root/run/sotto" "$root/run/sotto-serve"
		for dir in /var/lib /var/log /var/cache; do
			# private: of a service with DynamicUser
			rm -rf "$root$dir/sotto" "$root$dir/sotto-serve" "$root$dir/private/sotto-serve"
		done
	fi
	! has_systemd || systemctl daemon-reload
	say "removed"
}

# ---- sources ---------------------------------------------------------------------------------------------

# verify DIR NAME: compares a file with DIR/SHA256SUMS.
verify() {
	(cd "$1" && grep -E "^[0-9a-f]{64} [ *]$2\$" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) ||
		die "$1/$2 does not match SHA256SUMS there, or is not listed; download both again"
}

machine() {
	case $(uname -m) in
	x86_64 | amd64) echo amd64 ;;
	aarch64 | arm64) echo arm64 ;;
	*) die "no release for $(uname -m); build Sotto from its source: make build" ;;
	esac
}

fetch() {
	if command -v curl >/dev/null 2>&1; then
		curl -fsSL --proto '=https' --proto-redir '=https' -o "$2" "$1"
	elif command -v wget >/dev/null 2>&1; then
		# wget follows a redirection to http, and BusyBox, which has no --max-redirect, verifies no certificate.
		wget -q --max-redirect=0 -O "$2" "$1" || die "could not download $1 with wget, which is not allowed to follow a redirection; install curl"
	else
		die "neither curl nor wget is installed; download $1 and SHA256SUMS yourself, and use --from FOLDER"
	fi || die "could not download $1"
}

# archive_in SUMS: prints the name of the archive for this machine.
archive_in() {
	names=$(sed -n "s/^[0-9a-f]* [ *]\(sotto-${version:-[^ ]*}-linux-$(machine)\.tar\.gz\)\$/\1/p" "$1")
	case $names in
	'') die "$1 lists no archive sotto-${version:-VERSION}-linux-$(machine).tar.gz" ;;
	*"
"*) die "$1 lists several versions; choose one with --version" ;;
	esac
	echo "$names"
}

# unpack ARCHIVE: unpacks it and sets tree.
unpack() {
	mkdir "$work/unpacked"
	tar -xzf "$1" -C "$work/unpacked"
	tree=$(echo "$work"/unpacked/sotto-*)
	[ -f "$tree/sotto" ] || die "$1 contains no Sotto"
}

# find_tree: sets tree to a folder with verified files.
find_tree() {
	case $from in
	'')
		tree=$(dirname "$0")
		[ -f "$tree/SHA256SUMS" ] || die "this is not an unpacked archive (no SHA256SUMS beside the script); use --from"
		;;
	http://*) die "$from is not encrypted; use https" ;;
	https://*)
		fetch "${from%/}/SHA256SUMS" "$work/SHA256SUMS"
		name=$(archive_in "$work/SHA256SUMS")
		fetch "${from%/}/$name" "$work/$name"
		verify "$work" "$name"
		unpack "$work/$name"
		;;
	*)
		if [ -d "$from" ]; then
			[ -f "$from/SHA256SUMS" ] || die "$from has no SHA256SUMS"
			name=$(archive_in "$from/SHA256SUMS")
		else
			[ -f "$from" ] || die "$from does not exist"
			name=$(basename "$from") from=$(dirname "$from")
			[ -f "$from/SHA256SUMS" ] || die "no SHA256SUMS beside $name; put it there, or unpack the archive and run its install.sh"
		fi
		verify "$from" "$name"
		unpack "$from/$name"
		;;
	esac
	(cd "$tree" && sha256sum -c SHA256SUMS >/dev/null 2>&1) || die "files in $tree do not match its SHA256SUMS; unpack the archive again"
}

# ---- installation ----------------------------------------------------------------------------------------

# create_group: creates the group for control-group = "sotto", as the packages do. It has no members.
create_group() {
	if getent group sotto >/dev/null 2>&1 || grep -q '^sotto:' /etc/group; then return 0; fi
	if command -v groupadd >/dev/null 2>&1; then
		groupadd --system sotto
	elif command -v addgroup >/dev/null 2>&1; then
		addgroup -S sotto
	else
		say "group sotto was not created (no groupadd): create it before you set control-group"
		return 0
	fi
	: >"$group_created"
}

# put MODE SOURCE DESTINATION: installs one file and records it. Over a running program it is renamed, not written.
put() {
	mkdir -p "$root$(dirname "$3")"
	cp "$2" "$root$3.new.$$"
	chmod "$1" "$root$3.new.$$"
	mv -f "$root$3.new.$$" "$root$3"
	echo "$3" >>"$work/manifest"
}

install_files() {
	"$tree/sotto" version >/dev/null || die "$tree/sotto does not run here; is it for another machine?"
	put 755 "$tree/sotto" "$prefix/bin/sotto"
	for file in "$tree"/man/*.8; do put 644 "$file" "$prefix/share/man/man8/$(basename "$file")"; done
	put 644 "$tree/completions/sotto.bash" "$prefix/share/bash-completion/completions/sotto"
	put 644 "$tree/completions/_sotto" "$prefix/share/zsh/site-functions/_sotto"
	put 644 "$tree/completions/sotto.fish" "$prefix/share/fish/vendor_completions.d/sotto.fish"
	if [ -n "$root" ] || [ -d /run/systemd/system ] || [ -d /etc/systemd/system ]; then
		for file in "$tree"/systemd/*; do
			sed "s,/usr/local/bin/,$prefix/bin/,g" "$file" >"$work/unit"
			put 644 "$work/unit" "/etc/systemd/system/$(basename "$file")"
		done
	fi
	if [ -x /sbin/openrc-run ]; then
		sed "s,/usr/bin/,$prefix/bin/,g" "$tree/openrc/sotto" >"$work/unit"
		put 755 "$work/unit" /etc/init.d/sotto
	fi
	# Configuration belongs to the administrator: it is neither replaced nor recorded.
	mkdir -p "$root/etc/sotto"
	for file in sotto.toml serve.toml; do
		[ -e "$root/etc/sotto/$file" ] || install -m 644 "$tree/$file" "$root/etc/sotto/$file"
	done
	mkdir -p "$(dirname "$manifest")"
	# Files that only an earlier version had.
	if [ -r "$manifest" ]; then
		grep -vxFf "$work/manifest" "$manifest" | while read -r file; do rm -f "$root$file"; done
	fi
	cp "$work/manifest" "$manifest"
	[ -n "$root" ] || create_group
	! has_systemd || systemctl daemon-reload
}

# next: prints what to do, for the service manager whose file was installed.
next() {
	if ! has_systemd && [ -x /sbin/openrc-run ]; then
		say "next: sotto check, then: rc-update add sotto && rc-service sotto start (an upgrade: see \"Upgrade\" in OPERATING.md)"
	else
		say "next: sotto check, then: systemctl enable --now sotto (an upgrade: systemctl restart sotto)"
	fi
}

if [ -n "$uninstall" ]; then
	remove
	exit
fi
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
find_tree
install_files
say "installed $("$tree/sotto" version) below $root$prefix; nothing was enabled or started"
[ -n "$root" ] || next
