# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Functions for scripts that run under systemd in a guest (vagrant-provision.sh, systemd-guest.sh). Source it after lib.sh.
#
# A guest needs no network: a network namespace on a veth pair acts as the LAN (192.0.2.0/24, RFC 5737), with a plain
# nameserver on port 53 and a DNS over TLS upstream with a throwaway CA. Units create it again at each boot.

readonly sotto=/usr/bin/sotto
readonly LAN=sotto-lan LAN_IF=sotto-lan0 LAN_HOST=192.0.2.1 LAN_DNS=192.0.2.53 LAN_NAME=dns.example
readonly LAN_DIR=/var/lib/sotto-lan CA=/var/lib/sotto-lan/ca.pem LAN_PCAP=/run/sotto-lan.pcap

# lan_up: creates the LAN. All packets since then are captured on its side of the link, before the host's side is up.
lan_up() {
	ip netns add $LAN
	ip link add $LAN_IF type veth peer name eth0 netns $LAN
	# With a tunnel behind it that is up, the link counts as external, as a network card does.
	ip -n $LAN tuntap add card mode tun
	ip -n $LAN link set card up
	ip -n $LAN address add $LAN_DNS/24 dev eth0
	ip -n $LAN link set eth0 up
	ip -n $LAN link set lo up
	rm -f /run/sotto-tcpdump # of a LAN that was started before
	nsenter --net=/run/netns/$LAN tcpdump -ni eth0 -U --immediate-mode -w $LAN_PCAP 'port 53 or port 853' 2>/run/sotto-tcpdump &
	wait_for 60 "tcpdump" grep -q 'listening on' /run/sotto-tcpdump
	ip address add $LAN_HOST/24 dev $LAN_IF
	ip link set $LAN_IF up
	systemd-notify --ready
	wait
}

# lan_ask: asks for a new name every quarter of a second, from early in the boot, and logs what happens.
lan_ask() {
	local n=0
	while ((n < 400)); do
		n=$((n + 1))
		echo "$(cut -d' ' -f1 /proc/uptime) $(dig +short +tries=1 +time=1 @$LAN_DNS "boot$n.example" A 2>&1 | tail -n1)" >>/run/sotto-lan.asked
		sleep 0.25
	done
}

# lan_install: installs the units of the LAN and starts them. The configuration of Sotto refers to its upstream.
lan_install() {
	local tree=$PWD
	say "offline LAN: nameserver $LAN_DNS:53, DNS over TLS on $LAN_DNS:853"
	mkdir -p $LAN_DIR /etc/sotto
	lan_unit sotto-lan "After=network-pre.target local-fs.target
Before=network.target" "Type=notify
NotifyAccess=all
ExecStart=$tree/scripts/vagrant-lan.sh up
ExecStopPost=-ip netns del $LAN"
	# At each start it makes a new CA, and Sotto, which started before, reads it.
	lan_unit sotto-lan-tls "After=sotto-lan.service
Requires=sotto-lan.service" "NetworkNamespacePath=/run/netns/$LAN
ExecStart=$sotto demo upstream --listen $LAN_DNS:853 --ca-out $CA --name $LAN_NAME
ExecStartPost=sh -c 'until [ $CA -nt /run/netns/$LAN ]; do sleep 0.1; done; systemctl is-active -q sotto && systemctl reload --no-block sotto || true'"
	lan_unit sotto-lan-plain "After=sotto-lan-tls.service
Requires=sotto-lan-tls.service" "NetworkNamespacePath=/run/netns/$LAN
ExecStart=$sotto serve --listen $LAN_DNS:53 --upstream $LAN_DNS#$LAN_NAME --ca-file $CA"
	lan_unit sotto-lan-ask "After=local-fs.target" "ExecStart=$tree/scripts/vagrant-lan.sh ask"
	systemctl daemon-reload
	systemctl enable --quiet sotto-lan sotto-lan-tls sotto-lan-plain
	systemctl restart sotto-lan sotto-lan-tls sotto-lan-plain
	wait_for 60 "the LAN's nameserver" dig +time=1 +tries=1 @$LAN_DNS start.example
	printf 'upstream = ["%s"]\nca-file = "%s"\n' "$LAN_DNS#$LAN_NAME" "$CA" >/etc/sotto/sotto.toml
	cp /etc/sotto/sotto.toml /etc/sotto/serve.toml
}

# lan_unit NAME UNIT SERVICE: writes a unit that starts with the network, before ordinary services.
lan_unit() {
	cat >"/etc/systemd/system/$1.service" <<-END
		[Unit]
		DefaultDependencies=no
		Conflicts=shutdown.target
		Before=shutdown.target
		$2
		[Service]
		$3
		[Install]
		WantedBy=multi-user.target
	END
}

# lan_booted: checks what was captured since the boot, while a service queried from early on.
lan_booted() {
	local all answered plain tls
	say "since the boot: $(systemctl show -p ActiveState,SubState sotto | xargs)"
	note "sotto was ready $(($(systemctl show -P ActiveEnterTimestampMonotonic sotto) / 1000)) ms after the kernel started, the network $(($(systemctl show -P ActiveEnterTimestampMonotonic sotto-lan) / 1000)) ms"
	wait_for 120 "an answer after the boot" grep -q ' 192\.0\.2\.' /run/sotto-lan.asked
	all=$(wc -l </run/sotto-lan.asked) answered=$(grep -c ' 192\.0\.2\.' /run/sotto-lan.asked)
	note "sotto-lan-ask: $all queries since $(head -n1 /run/sotto-lan.asked | cut -d' ' -f1) s, first answer at $(grep -m1 ' 192\.0\.2\.' /run/sotto-lan.asked | cut -d' ' -f1) s, $answered answered"
	plain=$(lan_plain) tls=$(packets $LAN_PCAP 'port 853')
	note "captured on the LAN since it exists: $plain packets on port 53, $tls on port 853"
	((plain == 0)) || { tcpdump -nr $LAN_PCAP port 53 2>/dev/null | head && die "plain packets left the guest"; }
	((tls > 0)) || die "no TLS packets were captured"
	say "sealed from the first query"
}

# packets FILE FILTER: prints the number of captured packets.
packets() { tcpdump -nr "$1" "$2" 2>/dev/null | wc -l; }

# lan_plain: prints the number of packets of plain DNS that have reached the LAN since it exists.
lan_plain() { packets $LAN_PCAP 'port 53'; }
