#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# /init of the virtual machine of scripts/vm-test.sh: PID 1 in an initramfs, with busybox for all tools except those under
# test. It prints the result of each step on the serial console in lines that start with @@, and powers off. The machine
# has no network device, so `sotto run` can safely seal the root cgroup, as on a user's machine.
export PATH=/usr/bin:/bin HOME=/root TMPDIR=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount --make-rshared /
mkdir -p /run/lock /var/tmp
echo 5 >/proc/sys/kernel/printk # only warnings and errors, besides the output of this script

say() { echo "@@ $*"; }

# Debian's busybox prefers its own applets to programs in PATH.
ip() { /usr/bin/ip "$@"; }
nsenter() { /usr/bin/nsenter "$@"; }

# step NAME COMMAND…: runs one step. Its output is printed only if it fails.
step() {
	name=$1
	shift
	started=$(date +%s)
	if "$@" >"/tmp/$name.log" 2>&1; then
		say "ok $name $(($(date +%s) - started)) s$(sed -n 's/^=> /, /p' "/tmp/$name.log" | tr -d '\n')"
	else
		say "FAILED $name$(sed -n 's/^=> /, /p' "/tmp/$name.log" | tr -d '\n')"
		sed 's/^/   /' "/tmp/$name.log"
		dmesg | tail -n 30 | sed 's/^/   dmesg: /'
	fi
}
fail() {
	echo "failed: $*"
	return 1
}

modules() {
	status=0
	while read -r module; do
		insmod "$module" || { echo "=> failed to load $module" && status=1; }
	done </modules.order
	return $status
}

# tests NAME DIRECTORY [REGEXP]: runs the tests of one package, or those that match, in its directory. Tests that would be
# skipped fail, except those with Java.
tests() {
	cd "/src/$2" || return
	SOTTO_REQUIRE_PRIVILEGED=1 SOTTO_TEST_WHOLE_HOST=1 SOTTO_RESOLVED=/resolved "/tests/$1" -test.run="$3" -test.v -test.timeout=20m -test.count=1 -test.skip="$(cat /tests/skip)" >/tmp/verbose 2>&1
	status=$?
	echo "=> $(grep -c '^--- PASS' /tmp/verbose) passed, $(grep -c '^ *--- FAIL' /tmp/verbose) failed, $(grep -c '^ *--- SKIP' /tmp/verbose) skipped"
	sed -n 's/^ *--- \(FAIL\|SKIP\): \([^ ]*\).*/=> \1 \2/p' /tmp/verbose
	grep -v -E '^=== (RUN|PAUSE|CONT|NAME)|^ *--- PASS' /tmp/verbose
	return $status
}

# ---- network: eth0 leads to a LAN in a network namespace ----------------------------------------------------

readonly WIRE="table inet wire {
	counter plain { }
	counter sealed { }
	chain in {
		type filter hook prerouting priority -300;
		iifname wire udp dport 53 counter name plain
		iifname wire tcp dport 53 counter name plain
		iifname wire tcp dport 853 counter name sealed
	}
}"
in_lan() { nsenter --net=/run/netns/lan "$@"; }
packets() { in_lan nft list counter inet wire "$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }

# wait_for COMMAND…: waits until COMMAND succeeds; emulation is slow.
wait_for() {
	tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || fail "timed out waiting for: $*" || return
		sleep 0.1
	done
}

network() {
	ip netns add lan && ip -n lan link set lo up &&
		ip link add eth0 type veth peer name wire netns lan &&
		ip addr add 10.77.0.2/24 dev eth0 && ip addr add fd77::2/64 dev eth0 nodad &&
		ip -n lan addr add 10.77.0.1/24 dev wire && ip -n lan addr add fd77::1/64 dev wire nodad &&
		for a in 8.8.8.8/32 1.1.1.1/32; do ip -n lan addr add $a dev lo; done &&
		ip -n lan addr add 2001:db8::53/128 dev lo nodad &&
		ip link set eth0 up && ip -n lan link set wire up &&
		ip route add default via 10.77.0.1 && ip -6 route add default via fd77::1 &&
		echo "$WIRE" | in_lan nft -f - || return
	in_lan sotto demo upstream --listen 10.77.0.1:853 --ca-out /tmp/ca.pem >/tmp/upstream.log 2>&1 &
	wait_for test -s /tmp/ca.pem || return
	# Plain nameservers, for queries that are not intercepted.
	in_lan sotto serve --listen 8.8.8.8:53 --listen 1.1.1.1:53 --listen '[2001:db8::53]:53' \
		--upstream 10.77.0.1#dns.example --ca-file /tmp/ca.pem >/tmp/serve.log 2>&1 &
	wait_for dig +tries=1 +timeout=1 @8.8.8.8 ready.example.com
}

# query WHEN: queries three nameservers over UDP and TCP; each reply must come from the address that was queried.
query() {
	for server in 8.8.8.8 1.1.1.1 2001:db8::53; do
		for how in +notcp +tcp; do
			dig +tries=2 +timeout=5 $how "@$server" "$1$how.example.com" A >/tmp/dig.out 2>&1
			if ! grep -q 'status: NOERROR' /tmp/dig.out || ! grep -q 'ANSWER: 1' /tmp/dig.out ||
				! grep -q "SERVER: $server#53" /tmp/dig.out; then
				cat /tmp/dig.out
				fail "$1: $how @$server" || return
			fi
		done
	done
}

# run_sotto: starts sotto run, which seals the root cgroup.
run_sotto() {
	rm -f /tmp/run.log # of an earlier run, in which wait_for would find the text
	sotto run --upstream 10.77.0.1#dns.example --ca-file /tmp/ca.pem >/tmp/run.log 2>&1 &
	run_pid=$!
	wait_for grep -q sealed /tmp/run.log && return
	cat /tmp/run.log
	return 1
}

# no_plain WHAT: fails if there was a packet to port 53 since the counters were reset.
no_plain() {
	plain=$(packets plain)
	[ "$plain" = 0 ] || fail "$1: $plain plain packets counted"
}

root_cgroup() {
	echo "-- unsealed: plain packets are counted"
	query unsealed || return
	[ "$(packets plain)" -gt 0 ] || fail "unsealed: no plain packets counted, so the counter does not work" || return
	before=$(packets plain)
	echo "-- exec seals only its command"
	in_lan nft reset counters >/dev/null
	sotto exec --upstream 10.77.0.1#dns.example --ca-file /tmp/ca.pem -- dig +tries=2 +timeout=5 @8.8.8.8 exec.example.com || return
	no_plain exec || return
	echo "-- run seals the root cgroup"
	run_sotto || return
	hooks=$(find /sys/fs/bpf/sotto -name 'link_*' | wc -l)
	[ "$hooks" = 10 ] || fail "$hooks hooks attached to the root cgroup, want 10" || return
	in_lan nft reset counters >/dev/null
	query sealed && no_plain sealed || return
	busybox nslookup www.example.com 8.8.8.8 || fail "busybox nslookup" || return
	no_plain sealed || return
	sealed=$(packets sealed)
	[ "$sealed" -gt 0 ] || fail "no TLS packets counted, so no upstream was queried" || return
	echo "-- killed: queries fail"
	kill -KILL $run_pid
	wait $run_pid
	! dig +tries=1 +timeout=3 @8.8.8.8 killed.example.com || fail "query answered after Sotto was killed" || return
	no_plain killed || return
	echo "-- the next run adopts the leftovers"
	run_sotto && query again && no_plain again || return
	echo "-- a clean stop leaves nothing"
	kill -INT $run_pid
	wait $run_pid || fail "run exited with status $?" || return
	query stopped || return
	[ "$(packets plain)" -gt 0 ] || fail "still sealed after the stop" || return
	left=$(find /sys/fs/bpf/sotto /run/sotto -mindepth 1 ! -name lock; ip -o link | grep sotto; ip route | grep 198.1)
	[ -z "$left" ] || fail "leftovers: $left" || return
	echo "=> $hooks hooks on the root cgroup; sealed: 6 queries, $sealed TLS packets, 0 plain packets (unsealed: $before plain packets)"
}

ip link set lo up
say "kernel $(uname -r)"
step modules modules
step demo sotto demo
step network network
step root-cgroup root_cgroup
while read -r name directory run; do
	step "$name" tests "$name" "$directory" "$run"
done </tests/list
say "end"
sync
poweroff -f
