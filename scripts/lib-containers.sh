# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Functions shared by the tests with container engines. Source this file after lib.sh. They use $work, a temporary
# directory, and run in a sandbox.

readonly LAN=lan LAN_HOST=192.0.2.1 LAN_DNS=192.0.2.53
readonly UPSTREAM=$LAN_DNS#dns.example

work=${work:-}

# shellcheck disable=SC2034 # used by the scripts
container_packages=(
	"ip iproute2"
	"iptables iptables"
	"busybox busybox-static"
	"dig bind9-dnsutils"
	"tcpdump tcpdump"
)

# ---- images ----------------------------------------------------------------------------------------------

# copy_program ROOT PROGRAM…: copies programs with their shared libraries.
copy_program() {
	local root=$1 program file
	shift
	for program in "$@"; do
		program=$(type -P "$program")
		while read -r file; do
			install -D "$(readlink -f "$file")" "$root$file"
		done < <(echo "$program" && ldd "$program" 2>/dev/null | grep -o '/[^ ]*')
	done
}

busybox_root() {
	mkdir -p "$1/bin" "$1/etc" "$1/tmp" "$1/root"
	chmod 1777 "$1/tmp"
	echo 'root:x:0:0::/root:/bin/sh' >"$1/etc/passwd"
	copy_program "$1" busybox
	[[ -e $1/bin/busybox ]] || mv "$1$(type -P busybox)" "$1/bin/busybox"
	chroot "$1" /bin/busybox --install -s /bin
}

# client_image: writes the files of an image with dig and busybox to client.tar.
client_image() {
	busybox_root "$work/client"
	copy_program "$work/client" dig
	tar -C "$work/client" -cf "$work/client.tar" .
	note "client, with dig and busybox"
}

# ---- an unprivileged user --------------------------------------------------------------------------------

# shellcheck disable=SC2034 # used by the scripts
readonly USER_ID=21042 USER_NAME=sotto-podman SUBORDINATE=2104200000

# prepare_user: makes the machine look as rootless podman expects, in this mount namespace: a user with subordinate IDs, a
# resolv.conf with the LAN's nameserver, a tun device that users may open, and directories of its own.
prepare_user() {
	mount -t tmpfs -o mode=1777 tmpfs /dev/shm
	mkdir -p /run/etc/upper /run/etc/work "$work/home" "/run/user/$USER_ID"
	mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
	echo "$USER_NAME:x:$USER_ID:$USER_ID::$work/home:/bin/sh" >>/etc/passwd
	echo "$USER_NAME:x:$USER_ID:" >>/etc/group
	echo "$USER_NAME:$SUBORDINATE:65536" | tee /etc/subuid >/etc/subgid
	rm -f /etc/resolv.conf # may be a link
	echo "nameserver $LAN_DNS" >/etc/resolv.conf
	mknod -m 666 "$work/tun" c 10 200
	mount --bind "$work/tun" /dev/net/tun
	chown "$USER_ID:$USER_ID" "$work/home" "/run/user/$USER_ID"
	chmod 700 "/run/user/$USER_ID"
	chmod 755 "$work"
	# as-user CGROUP COMMAND…: a user's session has its own cgroup: the process moves itself before it drops its privileges.
	cat >"$work/as-user" <<-END
		#!/bin/sh
		echo \$\$ >"\$1/cgroup.procs" || exit
		shift
		exec setpriv --reuid=$USER_ID --regid=$USER_ID --clear-groups env -i HOME="$work/home" TMPDIR="$work/home" \\
			XDG_RUNTIME_DIR=/run/user/$USER_ID PATH="$PATH" "\$@"
	END
	chmod 755 "$work/as-user"
}

# ---- network ---------------------------------------------------------------------------------------------

# make_lan: creates a LAN behind the host's only uplink, with a plain nameserver and a DNS over TLS upstream.
make_lan() {
	ip netns add $LAN
	ip link add uplink type veth peer name eth0 netns $LAN
	ip address add $LAN_HOST/24 dev uplink
	ip link set uplink up
	ip -n $LAN address add $LAN_DNS/24 dev eth0
	ip -n $LAN link set eth0 up
	ip -n $LAN link set lo up
	# The default route makes the uplink an external interface. The LAN forwards nothing.
	ip route add default via $LAN_DNS
	nsenter --net=/run/netns/$LAN bin/sotto demo upstream --listen $LAN_DNS:853 --ca-out "$work/ca.pem" --name dns.example \
		>"$work/upstream.log" 2>&1 &
	wait_for 20 "the upstream" test -s "$work/ca.pem"
	nsenter --net=/run/netns/$LAN bin/sotto serve --listen $LAN_DNS:53 --upstream $UPSTREAM --ca-file "$work/ca.pem" \
		>"$work/nameserver.log" 2>&1 &
	wait_for 20 "the LAN's nameserver" dig +time=1 +tries=1 @$LAN_DNS up.example
}

# count_packets FILTER: prints the number of captured packets that match.
count_packets() { tcpdump -nr "$work/wire.pcap" "$1" 2>/dev/null | wc -l; }
saw() { (($(count_packets "$1") > 0)); }
start_capture() {
	rm -f "$work/wire.pcap" "$work/tcpdump.log" # or wait_for might read the log of the last one
	tcpdump -ni uplink -U --immediate-mode -w "$work/wire.pcap" 2>"$work/tcpdump.log" &
	tcpdump=$!
	wait_for 10 "tcpdump" grep -q 'listening on' "$work/tcpdump.log"
}

# end_capture WHAT: stops the capture of a sealed workload, and fails if a plain packet was on the host's uplink.
end_capture() {
	wait_for 10 "TLS packets" saw 'port 853'
	stop "$tcpdump"
	note "$1, on the host's uplink: $(count_packets 'port 53') packets on port 53, $(count_packets 'port 853') on port 853"
	! saw 'port 53' || { tcpdump -nr "$work/wire.pcap" 'port 53' 2>/dev/null; die "$1: a plain packet left the host"; }
}

# ---- seals -----------------------------------------------------------------------------------------------

# start_seal FLAG…: runs sotto run. Its log contains every query with its workload.
start_seal() {
	rm -f "$work/sotto.log" # or wait_for might read the log of the last seal
	bin/sotto run --upstream $UPSTREAM --ca-file "$work/ca.pem" --log-queries "$@" >"$work/sotto.log" 2>&1 &
	sotto=$!
	wait_for 30 "the seal (see $work/sotto.log)" grep -q 'msg=sealed' "$work/sotto.log"
}

end_seal() {
	kill -TERM "$sotto"
	wait "$sotto" || { cat "$work/sotto.log" >&2 && die "sotto run exited with an error"; }
	! ip -o link | grep sotto || die "sotto run left links"
	[[ -z $(find /run/netns -name 'sotto*') ]] || die "sotto run left a namespace"
}

# expect_workload LOG NAME PATH: fails unless all queries for a name came from the workload with this cgroup.
expect_workload() {
	local found
	found=$(sed -n "s/.* name=${2//./\\.}\\. .* workload=\\([^ ]*\\).*/\\1/p" "$1" | sort -u)
	[[ $found == "$3" ]] || { cat "$1" >&2 && die "$2: the workload is '$found', want $3"; }
	note "$2: the workload is $found"
}

# cgroup_of PID: prints the path of its cgroup in the cgroup2 hierarchy.
cgroup_of() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }

# remove_cgroups PREFIX: removes the empty cgroups that an engine leaves in each hierarchy.
remove_cgroups() {
	local dir
	while read -r dir; do rmdir "$dir" 2>/dev/null || true; done < <(find /sys/fs/cgroup -depth -type d -path "*/$1*" 2>/dev/null)
}

# ---- clients ---------------------------------------------------------------------------------------------

# expect_answer WHAT COMMAND…: runs a DNS client and prints answer and server; fails if there is no answer.
expect_answer() {
	local what=$1 out
	shift
	out=$("$@" 2>&1) || { printf '%s\n' "$out" >&2 && die "$what: no answer"; }
	grep -q 'status: NOERROR' <<<"$out" || { printf '%s\n' "$out" >&2 && die "$what: no answer"; }
	note "$what: $(grep -E '^[^;].*\s(A|TXT)\s' <<<"$out" | head -n1 | xargs), $(grep -o 'SERVER: .*' <<<"$out")"
}

# expect_text WHAT TEXT COMMAND…: runs a client; fails unless its output contains the text as a word.
expect_text() {
	local what=$1 text=$2 out
	shift 2
	out=$("$@" 2>&1) || true
	grep -qwF -e "$text" <<<"$out" || {
		printf '%s\n' "$out" >&2
		[[ ! -s ${work:-}/sotto.log ]] || tail -n 20 "$work/sotto.log" >&2
		die "$what: no $text"
	}
	note "$what: $text"
}

# query_from ENGINE CONTAINER SERVER LABEL: runs the same DNS clients in a container each time. ENGINE is the command.
query_from() {
	expect_answer "$4, $2, dig UDP" "$1" exec "$2" dig +time=3 +tries=1 "@$3" "$4-udp.example" A
	expect_answer "$4, $2, dig TCP" "$1" exec "$2" dig +time=3 +tries=1 +tcp "@$3" "$4-tcp.example" A
	expect_text "$4, $2, busybox nslookup" 192.0.2.1 "$1" exec "$2" nslookup "$4-nslookup.example"
}
