#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs as root in the Vagrant guest: installs the Debian package, and resolves names with dig, resolvectl, getent and a
# container before and after Sotto is enabled, with a packet capture each time. resolv.conf does not change. After the next
# boot the guest is sealed from the first query: `vagrant-provision.sh booted` shows that.
#
# With SOTTO_OFFLINE=1 the guest needs no network: see lib-guest.sh.
set -euo pipefail
cd /vagrant
. scripts/lib.sh
. scripts/lib-guest.sh

readonly IMAGE=localhost/sotto-busybox
offline=${SOTTO_OFFLINE:-}

install_package() {
	local deb
	deb=$(find dist/packages -name "sotto_*_$(dpkg --print-architecture).deb" -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n1 | cut -d' ' -f2)
	if [[ -z $deb ]]; then
		say "build the package in the guest (none in dist/packages; to build it on the host, run ./scripts/package.sh)"
		ensure_go
		deb=$(./scripts/package.sh | tail -n1)
	fi
	say "dpkg -i $deb"
	DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$deb" >/dev/null
	note "$($sotto version | head -n1)"
}

# make_image: a container image with nothing but busybox.
make_image() {
	local dir
	podman image exists $IMAGE && return
	dir=$(mktemp -d)
	mkdir "$dir/bin"
	cp "$(type -P busybox)" "$dir/bin/"
	ln -s busybox "$dir/bin/sh"
	ln -s busybox "$dir/bin/nslookup"
	tar -C "$dir" -c . | podman import -q - $IMAGE >/dev/null
	rm -r "$dir"
}

# client NAME QUESTION: resolves a name in one of four ways.
client() {
	case $1 in
	dig) dig +time=5 +tries=1 "@$nameserver" "$2" A ;;
	resolvectl) resolvectl query --cache=no "$2" ;;
	getent) getent ahostsv4 "$2" ;;
	container) podman run --rm $IMAGE nslookup "$2" "$nameserver" ;;
	esac
}

# capture LABEL: runs all clients, each with a name of its own, and counts the packets on the interface.
plain=0 tls=0
capture() {
	local label=$1 dump=/run/sotto-capture.pcap pid name question
	say "$label"
	rm -f "$dump" /run/sotto-tcpdump-provision
	tcpdump -ni "$interface" -U --immediate-mode -w "$dump" 'port 53 or port 853' 2>/run/sotto-tcpdump-provision &
	pid=$!
	wait_for 30 "tcpdump" grep -q 'listening on' /run/sotto-tcpdump-provision
	for name in "${clients[@]}"; do
		# A name that is not cached, so that every query leaves the machine.
		question=$name$RANDOM.$domain
		[[ -n $offline ]] || question=$domain
		client "$name" "$question" >/run/sotto-answer 2>&1 || { cat /run/sotto-answer && die "$name: no answer"; }
		grep -qE '[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+' /run/sotto-answer || { cat /run/sotto-answer && die "$name: no address"; }
		note "$name $question: $(grep -oE '[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+' /run/sotto-answer | grep -v "^$nameserver$" | tail -n1)"
	done
	# Packets are written in order: once the last answer is in the file, all earlier packets are too.
	wait_for 30 "the capture" captured "$dump"
	sleep 1
	stop $pid
	plain=$(packets "$dump" 'port 53') tls=$(packets "$dump" 'port 853')
	note "captured on $interface: $plain packets on port 53, $tls on port 853"
	tcpdump -nr "$dump" 2>/dev/null | head -n4 | cut -c1-110 | sed 's/^/     /'
}
captured() { (($(packets "$1" 'port 53 or port 853') >= 2)); }

[[ $(id -u) == 0 ]] || die "this script is run by 'vagrant up', as root in the guest"
if [[ ${1:-} == booted ]]; then
	lan_booted
	exit
fi
systemctl stop sotto 2>/dev/null || true
clients=(dig getent)
if [[ -z $offline ]]; then
	install_missing "dig bind9-dnsutils" "tcpdump tcpdump" "podman podman" "busybox busybox-static"
fi
! systemctl is-active --quiet systemd-resolved || clients+=(resolvectl)
! command -v podman >/dev/null || clients+=(container)
install_package
if [[ -n $offline ]]; then
	nameserver=$LAN_DNS domain=example interface=$LAN_IF
	[[ -n $(type -P dig) && -n $(type -P tcpdump) ]] ||
		die "this box lacks dig or tcpdump, which cannot be installed with SOTTO_OFFLINE=1; unset it"
	lan_install
	systemctl enable --quiet sotto-lan-ask
else
	nameserver=$(sed -n 's/^nameserver //p' /etc/resolv.conf | head -n1) domain=example.com
	interface=$(ip -o route get 9.9.9.9 | sed -n 's/.* dev \([^ ]*\).*/\1/p')
fi
[[ ${clients[*]} != *container* ]] || make_image

resolver_before=$(sha256sum </etc/resolv.conf)
capture "before: ${clients[*]}"
((plain > 0)) || die "no plain packets captured on $interface before the seal, so the capture does not work"

say "systemctl enable --now sotto"
systemctl enable --now --quiet sotto || { journalctl --no-pager -o cat -u sotto >&2 && die "sotto did not start; see its log above"; }
note "$(systemctl show -p ActiveState,SubState,MainPID sotto | xargs)"

capture "after: ${clients[*]}"
((plain == 0)) || die "plain packets captured on $interface while sealed"
((tls > 0)) || die "no TLS packets captured on $interface while sealed"
[[ $(sha256sum </etc/resolv.conf) == "$resolver_before" ]] || die "resolv.conf changed"
say "sealed: $nameserver still answers, resolv.conf is unchanged, and there were no packets on port 53"
