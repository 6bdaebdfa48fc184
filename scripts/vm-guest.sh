#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# /init of the virtual machines of scripts/vm-test.sh: PID 1 in an initramfs with programs of Debian, and busybox for the
# rest. It runs the steps in /steps and prints their results on the serial console in lines that start with @@, which
# internal/kernels reads, and powers off. The machine has no network device, so `sotto run` can safely seal the root cgroup,
# as on a user's machine.
export PATH=/usr/bin:/usr/sbin HOME=/root TMPDIR=/tmp
/bin/busybox --install -s /bin 2>/dev/null # does not replace Debian's programs
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
hostname sotto-guest
modprobe tun # has a device file, which the kernel cannot load it by
echo 5 >/proc/sys/kernel/printk # only warnings and errors, besides the output of this script

# Emulation is slow.
SOTTO_TEST_PATIENCE=$(sed -n 's/.*sotto.patience=\([0-9]*\).*/\1/p' /proc/cmdline)
export SOTTO_TEST_PATIENCE

say() { echo "@@ $*"; }

# step NAME COMMAND…: runs one step. Its output is printed only if it fails.
step() {
	name=$1
	shift
	started=$(date +%s)
	if "$@" >/tmp/step.log 2>&1; then
		say "ok $name $(($(date +%s) - started)) s$(sed -n 's/^=> /, /p' /tmp/step.log | tr -d '\n')"
	else
		say "FAILED $name$(sed -n 's/^=> /, /p' /tmp/step.log | tr -d '\n')"
		sed 's/^/   /' /tmp/step.log
		dmesg | tail -n 30 | sed 's/^/   dmesg: /'
	fi
}
fail() {
	echo "failed: $*"
	return 1
}

# A second serial port shows the progress of tests. A machine of arm64 has only one.
progress=/dev/console
[ "$(uname -m)" != x86_64 ] || progress=/dev/ttyS1

# every_nth NAME N/M: prints a regular expression for every M-th test, from the N-th on.
every_nth() {
	"/tests/$1" -test.list . | awk -v n="${2%/*}" -v m="${2#*/}" '
		/^Test/ && tests++ % m == n - 1 { out = out "|" $0 }
		END { print "^(" substr(out, 2) ")$" }'
}

# tests NAME DIRECTORY [REGEXP|N/M]: runs the tests of one package, or some of them, in its directory. Tests that would be
# skipped because a program is missing fail. Prints which tests failed or were skipped and why.
tests() {
	cd "/src/$2" || return
	which=$3
	case $which in [0-9]*/[0-9]*) which=$(every_nth "$1" "$which") ;; esac
	: >/tmp/verbose
	tail -f /tmp/verbose >"$progress" &
	follower=$!
	SOTTO_REQUIRE_PRIVILEGED=1 SOTTO_TEST_WHOLE_HOST=1 "/tests/$1" -test.run="$which" -test.v -test.timeout=90m \
		-test.count=1 -test.skip="$(cat /skip)" >>/tmp/verbose 2>&1
	status=$?
	kill $follower
	echo "=> $(grep -c '^--- PASS' /tmp/verbose) passed, $(grep -c '^ *--- FAIL' /tmp/verbose) failed, $(grep -c '^ *--- SKIP' /tmp/verbose) skipped"
	sed -n 's/^ *[a-z_0-9]*_test.go:[0-9]*: result: /=> /p' /tmp/verbose
	sed -n 's/^ *feature_test.go:[0-9]*: feature /feature /p' /tmp/verbose >>/tmp/results
	awk -v package="$2" '
		/^--- PASS/ { passed++ }
		/^=== (RUN|NAME|CONT) / { current = $3 }
		/^ +[a-z_0-9]+\.go:[0-9]+: / { sub(/^ +[^ ]+ /, ""); said[current] = $0 }
		/^ *--- FAIL: / { print "fail", package, $3 }
		/^ *--- SKIP: / { print "skip", package, $3, said[$3] }
		END { print "passed", package, passed + 0 }' /tmp/verbose >>/tmp/results
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
		[ $tries -lt $((600 * SOTTO_TEST_PATIENCE)) ] || fail "timed out waiting for: $*" || return
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

# run_sotto: starts sotto run, which seals the root cgroup, and waits until it is ready. Not until it logs something: its
# log, or that of the process before it, has other lines about seals.
run_sotto() {
	sotto run --upstream 10.77.0.1#dns.example --ca-file /tmp/ca.pem >/tmp/run.log 2>&1 &
	run_pid=$!
	wait_for sotto status --ready && return
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

# features: what the kernel has at run time; intercept/feature reports the rest.
features() {
	say "feature btf $([ -e /sys/kernel/btf/vmlinux ] && echo yes || echo no)"
	say "feature mptcp $([ -e /proc/sys/net/mptcp/enabled ] && echo yes || echo no)"
}

# results: prints the lines about single tests that a step has written.
results() {
	while read -r line; do say "$line"; done </tmp/results
	: >/tmp/results
}

ip link set lo up
say "kernel $(uname -r)"
: >/tmp/results
while read -r what run; do
	if [ "$what" = seal ]; then
		features
		step demo sotto demo
		step network network
		step root-cgroup root_cgroup
	else
		name=$(echo "$what" | tr / -)
		step "$what" tests "$name" "$what" "$run"
	fi
	results
done </steps
say "end"
sync
busybox poweroff -f
