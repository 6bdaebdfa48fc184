#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs as root in the Vagrant guest: installs Sotto as a service and runs the same dig before and after, with a packet
# capture each time. resolv.conf does not change.
#
# With SOTTO_OFFLINE=1 the guest needs no network: a network namespace on a veth pair acts as the LAN (192.0.2.0/24,
# RFC 5737), with a plain nameserver on port 53 and a DNS over TLS upstream with a throwaway CA. It exists until the guest
# halts; `vagrant up --provision` creates it again.
set -euo pipefail
cd /vagrant
. scripts/lib.sh

readonly LAN=sotto-lan LAN_IF=sotto-lan0 LAN_HOST=192.0.2.1 LAN_DNS=192.0.2.53
readonly CA=/run/sotto-demo-ca.pem
offline=${SOTTO_OFFLINE:-}

install_sotto() {
	if [[ -x dist/sotto ]]; then
		say "install dist/sotto, built on the host"
		install -m 755 dist/sotto /usr/local/bin/sotto
	else
		say "build Sotto in the guest (no dist/sotto; to build it on the host, run make dist)"
		ensure_go
		build
		install -m 755 bin/sotto /usr/local/bin/sotto
	fi
	note "$(/usr/local/bin/sotto version)"
	install -m 644 deploy/systemd/sotto.service /etc/systemd/system/sotto.service
	systemctl daemon-reload
}

# make_lan: creates the LAN. Its servers are transient units, which systemd stops with the guest.
make_lan() {
	say "offline LAN: nameserver $LAN_DNS:53, DNS over TLS on $LAN_DNS:853"
	systemctl stop sotto-lan-plain sotto-lan-tls 2>/dev/null || true
	ip netns del $LAN 2>/dev/null || true
	ip netns add $LAN
	ip link add $LAN_IF type veth peer name eth0 netns $LAN
	ip address add $LAN_HOST/24 dev $LAN_IF
	ip link set $LAN_IF up
	ip -n $LAN address add $LAN_DNS/24 dev eth0
	ip -n $LAN link set eth0 up
	ip -n $LAN link set lo up
	rm -f $CA
	lan_unit sotto-lan-tls demo upstream --listen $LAN_DNS:853 --ca-out $CA --name dns.example
	wait_for 20 "the upstream" test -s $CA
	lan_unit sotto-lan-plain serve --listen $LAN_DNS:53 --upstream "$LAN_DNS#dns.example" --ca-file $CA
	wait_for 20 "the LAN's nameserver" query
	mkdir -p /etc/sotto
	printf 'upstream = ["%s"]\nca-file = "%s"\n' "$LAN_DNS#dns.example" "$CA" >/etc/sotto/sotto.toml
}

lan_unit() {
	local unit=$1
	shift
	systemd-run --quiet --collect --unit="$unit" -p NetworkNamespacePath=/run/netns/$LAN /usr/local/bin/sotto "$@"
}

# query: runs the client, with the same arguments before and after.
query() { dig +time=3 +tries=1 "@$nameserver" "$question" A | tee /run/sotto-answer | grep -q 'status: NOERROR'; }

# capture_query LABEL INTERFACE: captures one query and prints the packet counts.
plain=0 tls=0
capture_query() {
	local label=$1 interface=$2 dump=/run/sotto-capture.pcap pid
	say "$label: dig @$nameserver $question"
	rm -f "$dump"
	tcpdump -ni "$interface" -U --immediate-mode -w "$dump" 'port 53 or port 853' 2>/run/sotto-tcpdump &
	pid=$!
	wait_for 10 "tcpdump" grep -q 'listening on' /run/sotto-tcpdump
	query || { cat /run/sotto-answer; die "no answer"; }
	# Packets are written in order: once the answer is in the file, all earlier packets are too.
	wait_for 10 "the capture" captured "$dump"
	stop $pid
	plain=$(count "$dump" 'port 53') tls=$(count "$dump" 'port 853')
	grep -E '^[^;].*\sA\s|SERVER:|status:' /run/sotto-answer | sed 's/^/   /'
	note "captured on $interface: $plain packets on port 53, $tls on port 853"
	tcpdump -nr "$dump" 2>/dev/null | head -n4 | cut -c1-110 | sed 's/^/     /'
}
count() { tcpdump -nr "$1" "$2" 2>/dev/null | wc -l; }
captured() { (($(count "$1" 'port 53 or port 853') >= 2)); }

[[ $(id -u) == 0 ]] || die "this script is run by 'vagrant up', as root in the guest"
systemctl stop sotto 2>/dev/null || true
if [[ -z $offline ]]; then
	install_missing "dig bind9-dnsutils" "tcpdump tcpdump"
fi
install_sotto
if [[ -n $offline ]]; then
	nameserver=$LAN_DNS question=www.example interface=$LAN_IF
	[[ -n $(type -P dig) && -n $(type -P tcpdump) ]] ||
		die "this box lacks dig or tcpdump, which cannot be installed with SOTTO_OFFLINE=1; unset it"
	make_lan
else
	nameserver=$(sed -n 's/^nameserver //p' /etc/resolv.conf | head -n1) question=example.com
	interface=$(ip -o route get 9.9.9.9 | sed -n 's/.* dev \([^ ]*\).*/\1/p')
fi

resolver_before=$(sha256sum </etc/resolv.conf)
capture_query "before" "$interface"
((plain > 0)) || die "no plain packets captured on $interface before the seal, so the capture does not work"

say "systemctl enable --now sotto"
systemctl enable --now --quiet sotto || { journalctl --no-pager -o cat -u sotto >&2 && die "sotto did not start; see its log above"; }
note "$(systemctl show -p ActiveState,SubState,MainPID sotto | xargs)"

capture_query "after" "$interface"
((plain == 0)) || die "plain packets captured on $interface while sealed"
((tls > 0)) || die "no TLS packets captured on $interface while sealed"
[[ $(sha256sum </etc/resolv.conf) == "$resolver_before" ]] || die "resolv.conf changed"
say "sealed: $nameserver still answers, resolv.conf is unchanged, and there were no packets on port 53"
