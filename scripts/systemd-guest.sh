#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs as root under systemd in a guest with the Debian package and the LAN of lib-guest.sh, and tests the units: start,
# crash, watchdog, reload, control-group, restart and package upgrade under load, failed restarts, the seal of one unit, filters of units,
# sotto-serve, stop and purge. Called by vagrant-test.sh (a virtual machine, whole host sealed) and systemd-test.sh (a container).
#
#   systemd-guest.sh DEB LOAD [CGROUP]
#
#   SOTTO_STEPS=WORDS      steps (default: all); "install" installs the package and the LAN, for the next boot
#
# DEB is the package, LOAD a test binary of internal/e2e/takeover, which is the client, and CGROUP the only cgroup that is
# sealed, with system.slice in it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-guest.sh
deb=$1 load=$2 top=${3:-}
rate=${SOTTO_LOAD_RATE:-100} restarts=${SOTTO_RESTARTS:-5}

main_pid() { systemctl show -P MainPID sotto; }
is_active() { systemctl is-active --quiet sotto; }
sealed_log() { journalctl -u sotto --no-pager -o cat --since "@$1"; }

# ask NAME: a service in the seal asks for a name, once.
ask() { systemd-run --quiet --collect --wait --pipe dig +short +time=5 +tries=1 "@$LAN_DNS" "$1.example" A; }
answered() { [[ $(ask "$1") == 192.0.2.* ]]; }

# check WHAT COMMAND…: fails with WHAT unless COMMAND succeeds.
check() {
	local what=$1
	shift
	"$@" || { journalctl -u sotto --no-pager -o cat -n 30 >&2 && die "$what"; }
}

no_process() { ! pgrep -f 'sotto run'; }

# sealed WHAT: a new name is answered, and no packet on port 53 has reached the LAN since the seal was closed.
plain_before=0
sealed() {
	check "$1: not answered" answered "n$RANDOM"
	check "$1: plain DNS has left the machine" test "$(lan_plain)" = "$plain_before"
}

# under_load COMMAND…: runs a command while clients of every kind send queries, none of which may be lost.
under_load() {
	local report
	rm -f /run/sotto-load.in /run/sotto-load.out
	mkfifo /run/sotto-load.in
	systemd-run --quiet --collect --unit=sotto-load -p StandardOutput=file:/run/sotto-load.out \
		sh -c "SOTTO_TEST_CLIENT=load exec $load $rate </run/sotto-load.in"
	exec 9>/run/sotto-load.in
	sleep 2
	"$@"
	sleep 1
	exec 9>&-
	wait_for 60 "the load to end" bash -c '! systemctl is-active --quiet sotto-load'
	report=$(head -n1 /run/sotto-load.out)
	note "$report"
	check "queries were lost" grep -q '"Lost":0,"Reset":0,"Failed":0,"Wrong":0' <<<"$report"
}

restart_often() {
	local n before
	for ((n = 0; n < restarts; n++)); do
		before=$(main_pid)
		check "restart failed" systemctl restart sotto
		check "the main process did not change" test "$(main_pid)" != "$before"
		sleep 0.3
	done
}

test_start() {
	say "start: not sealed before, sealed after"
	plain_before=$(lan_plain)
	check "no answer before the seal" answered before
	check "no plain packet before the seal: the capture does not work" test "$(lan_plain)" != "$plain_before"
	check "start failed" systemctl start sotto
	plain_before=$(lan_plain)
	sealed "start"
	note "$(systemd-analyze security --no-pager sotto.service | tail -n1)"
	note "$(systemd-analyze security --no-pager sotto-serve.service | tail -n1)"
}

test_crash() {
	local pid
	say "crash: kill -9"
	pid=$(main_pid)
	kill -9 "$pid"
	ask dead >/dev/null || true
	wait_for 60 "a restart" bash -c "p=\$(systemctl show -P MainPID sotto); [ \$p != 0 ] && [ \$p != $pid ] && systemctl is-active --quiet sotto"
	sealed "after the crash"
}

test_watchdog() {
	local pid since
	say "watchdog: SIGSTOP"
	pid=$(main_pid) since=$(date +%s)
	kill -STOP "$pid"
	wait_for 240 "a restart" bash -c "p=\$(systemctl show -P MainPID sotto); [ \$p != 0 ] && [ \$p != $pid ] && systemctl is-active --quiet sotto"
	note "restarted after $(($(date +%s) - since)) s; keep-alives: $(systemctl show -p WatchdogUSec,NRestarts sotto | xargs)"
	sealed "after the watchdog"
}

test_reload() {
	local pid
	say "reload: valid and invalid"
	pid=$(main_pid)
	check "reload failed" systemctl reload sotto
	echo 'nonsense = 1' >>/etc/sotto/sotto.toml
	check "an invalid configuration was accepted" bash -c '! systemctl reload sotto 2>/dev/null'
	cp /run/sotto.toml.good /etc/sotto/sotto.toml
	check "reload changed the process" test "$(main_pid)" = "$pid"
	sealed "after reloads"
}

# as_operator GROUPS COMMAND…: runs sotto as a user without root, with the groups (an option of setpriv).
as_operator() {
	local groups=$1
	shift
	setpriv --reuid=65534 --regid=65534 "$groups" sotto "$@" >/dev/null 2>&1
}

# check_operators WHEN [OPTION…]: members of group sotto read over the control socket, and other users do not.
check_operators() {
	local when=$1
	shift
	check "$when: a member cannot read" as_operator "--groups=$(getent group sotto | cut -d: -f3)" status "$@"
	if as_operator --clear-groups status "$@"; then die "$when: a user outside the group can read"; fi
}

test_control_group() {
	say "control-group: after a start, a reload and a crash"
	sed -i '1i control-group = "sotto"' /etc/sotto/sotto.toml
	check "restart failed" systemctl restart sotto
	check_operators "restart"
	check "reload failed" systemctl reload sotto
	check_operators "reload"
	test_crash
	check_operators "crash"
	cp /run/sotto.toml.good /etc/sotto/sotto.toml
	check "restart failed" systemctl restart sotto
	sealed "without control-group"
}

test_restart() {
	say "restart under load, $restarts times, at $rate queries per second"
	under_load restart_often
	sealed "after restarts"
	say "upgrade of the package under load"
	under_load env DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$deb"
	sealed "after the upgrade"
}

test_failed_restart() {
	local since
	say "restart with an invalid configuration: the seal stays closed until it is valid"
	since=$(date +%s)
	echo 'nonsense = 1' >>/etc/sotto/sotto.toml
	check "the restart succeeded" bash -c '! systemctl restart sotto 2>/dev/null'
	ask closed >/dev/null || true
	check "plain DNS has left the machine" test "$(lan_plain)" = "$plain_before"
	cp /run/sotto.toml.good /etc/sotto/sotto.toml
	wait_for 60 "the service" is_active
	sealed "after the correction"

	say "restart with a main process that fails: the bridge becomes the main process"
	mkdir -p /run/systemd/system/sotto.service.d
	cat >/run/sotto-main <<-END
		#!/bin/sh
		# The bridge has no NOTIFY_SOCKET.
		[ -z "\$NOTIFY_SOCKET" ] || set -- "\$@" --config /nonexistent
		exec $sotto run "\$@"
	END
	chmod 755 /run/sotto-main
	printf '[Service]\nExecStart=\nExecStart=/bin/sh /run/sotto-main --replace\n' >/run/systemd/system/sotto.service.d/fail.conf
	systemctl daemon-reload
	check "the restart succeeded" bash -c '! systemctl restart sotto 2>/dev/null'
	wait_for 60 "the bridge" is_active
	check "no message" grep -q 'the running Sotto continues' <(sealed_log "$since")
	sealed "with the bridge"
	rm -r /run/systemd/system/sotto.service.d
	systemctl daemon-reload
	check "restart failed" systemctl restart sotto
	sealed "after the correction"
}

# filtered NAME SETTING…: starts a unit with filters.
filtered() {
	local name=$1
	shift
	{ printf '[Service]\nExecStart=/bin/sleep infinity\n' && printf '%s\n' "$@"; } >"/run/systemd/system/$name.service"
	systemctl daemon-reload
	systemctl start "$name"
}

# warned UNIT SETTING SINCE: reports whether the path test has named both in the log.
warned() { sealed_log "$3" | grep 'are blocked' | grep "$1" | grep -q "$2"; }

test_filters() {
	local since unit=$top/system.slice
	say "units with IPAddressAllow= and RestrictNetworkInterfaces="
	filtered sotto-allow IPAddressDeny=any "IPAddressAllow=$LAN_DNS"
	filtered sotto-links "RestrictNetworkInterfaces=$LAN_IF"
	since=$(date +%s)
	check "restart failed" systemctl restart sotto
	wait_for 60 "the warning about IPAddressAllow=" warned sotto-allow.service IPAddressAllow= "$since"
	sealed_log "$since" | grep 'are blocked' | sed 's/^.*cgroup=/   cgroup=/'
	if systemctl --version | grep -q '+BPF_FRAMEWORK'; then
		wait_for 60 "the warning about RestrictNetworkInterfaces=" warned sotto-links.service RestrictNetworkInterfaces= "$since"
	else
		note "this systemd was built without RestrictNetworkInterfaces="
	fi
	# The seal of a unit that has a filter already, and a filter on a sealed unit.
	since=$(date +%s)
	systemctl stop sotto
	sed -i '/^cgroups/d' /etc/sotto/sotto.toml
	sed -i "1i cgroups = [\"$unit/sotto-allow.service\", \"$unit/sotto-links.service\"]" /etc/sotto/sotto.toml
	check "the seal of filtered units failed" systemctl start sotto
	check "a unit does not start under the seal" systemctl restart sotto-allow sotto-links
	check "a unit did not start" systemctl is-active --quiet sotto-allow sotto-links
	cp /run/sotto.toml.good /etc/sotto/sotto.toml
	systemctl stop sotto sotto-allow sotto-links
	systemctl start sotto
	plain_before=$(lan_plain)
	sealed "after the filters"
}

# in_unit UNIT COMMAND…: runs a command in the cgroup of a unit.
in_unit() {
	local procs=/sys/fs/cgroup$top/system.slice/$1/cgroup.procs
	shift
	(echo "$BASHPID" >"$procs" && exec "$@")
}

# unit_sealed WHAT: a name is answered in the cgroup of the unit sotto-one, and does not reach the LAN.
unit_sealed() {
	local answer
	answer=$(in_unit sotto-one.service dig +short +time=5 +tries=1 "@$LAN_DNS" "u$RANDOM.example" A)
	check "$1: not answered: $answer" grep -q '^192\.0\.2\.' <<<"$answer"
	check "$1: plain DNS has left the machine" test "$(lan_plain)" = "$plain_before"
}

# unit_again SINCE: reports whether the log names the unit's cgroup as sealed again.
unit_again() { sealed_log "$1" | grep 'sealed a cgroup that was created again' | grep -q sotto-one.service; }

test_unit() {
	local since
	say "a seal of one unit, which is restarted, stopped and started"
	filtered sotto-one # no filters
	systemctl stop sotto
	sed -i '/^cgroups/d' /etc/sotto/sotto.toml
	sed -i "1i cgroups = [\"$top/system.slice/sotto-one.service\"]" /etc/sotto/sotto.toml
	check "start failed" systemctl start sotto
	plain_before=$(lan_plain)
	unit_sealed "start"
	since=$(date +%s)
	check "the restart of the unit failed" systemctl restart sotto-one
	wait_for 60 "a seal of the unit's new cgroup" unit_again "$since"
	unit_sealed "restart of the unit"
	systemctl stop sotto-one
	wait_for 60 "the status of a unit without a cgroup" bash -c "sotto status | grep 'sotto-one.service' | grep -q 'does not exist now'"
	sleep 1 # so that the log of the restart is before the time
	since=$(date +%s)
	systemctl start sotto-one
	wait_for 60 "a seal of the unit that was started" unit_again "$since"
	unit_sealed "start of the unit"
	check "restart failed" systemctl restart sotto
	unit_sealed "restart of sotto"
	cp /run/sotto.toml.good /etc/sotto/sotto.toml
	systemctl stop sotto sotto-one
	systemctl start sotto
	plain_before=$(lan_plain)
	sealed "after the seal of one unit"
}

# forwarded NAME SERVER: sotto-serve answers. The query is not one of system.slice, whose seal would redirect it.
forwarded() { [[ $(dig +short +time=10 +tries=1 "@$2" "$1.example" A) == 192.0.2.* ]]; }

restart_serve() {
	local n
	for n in 1 2 3; do
		systemctl restart sotto-serve &
		check "a query during a restart of sotto-serve was lost" forwarded "serve$n" 127.0.0.1
		wait $!
	done
}

test_serve() {
	say "sotto-serve.socket: without root, with a query log and control-group, and restarted"
	sed -i '1i control-group = "sotto"\nquery-log = "/var/log/sotto-serve/queries.jsonl"' /etc/sotto/serve.toml
	mkdir -p /run/systemd/system/sotto-serve.service.d
	printf '[Service]\nGroup=sotto\n' >/run/systemd/system/sotto-serve.service.d/group.conf
	systemctl daemon-reload
	systemctl start sotto-serve.socket
	check "no answer from 127.0.0.1" forwarded serve 127.0.0.1
	check "no answer from ::1" forwarded serve6 ::1
	check "it runs as root" test "$(ps -o uid= -p "$(systemctl show -P MainPID sotto-serve)")" -ne 0
	restart_serve
	check "reload failed" systemctl reload sotto-serve
	check_operators "sotto-serve" --control /run/sotto-serve/control.sock
	wait_for 30 "the query log" test -s /var/log/sotto-serve/queries.jsonl
	check "a warning in its log" bash -c '! journalctl -u sotto-serve --no-pager -o cat | grep "level=WARN\|level=ERROR"'
	systemctl stop sotto-serve.socket sotto-serve
	rm -r /run/systemd/system/sotto-serve.service.d
	systemctl daemon-reload
}

test_stop() {
	say "stop: not sealed, nothing left"
	check "stop failed" systemctl stop sotto
	check "no answer" answered stopped
	check "no plain packet: it is still sealed" test "$(lan_plain)" != "$plain_before"
	check "an interface is left" bash -c '! ip link show sotto0 2>/dev/null'
	check "a namespace is left" test ! -e /run/netns/sotto
	check "pins are left" test -z "$(find /sys/fs/bpf/sotto -mindepth 1 2>/dev/null)"
	check "a process is left" no_process
}

test_purge() {
	say "purge while it runs: nothing left"
	systemctl start sotto
	DEBIAN_FRONTEND=noninteractive dpkg -P sotto >/dev/null
	check "files are left" test -z "$(find /etc/sotto /var/lib/sotto /run/sotto /usr/bin/sotto /usr/lib/systemd/system/sotto* 2>/dev/null)"
	check "a process is left" no_process
	check "an interface is left" bash -c '! ip link show sotto0 2>/dev/null'
	check "the unit is left" test "$(systemctl show -P LoadState sotto)" = not-found
}

[[ $(id -u) == 0 ]] || die "this script runs as root in a guest"
if [[ ${SOTTO_STEPS:-} == install ]]; then
	say "install the package, and enable it"
	DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$deb" >/dev/null
	lan_install
	[[ -z $top ]] || sed -i "1i cgroups = [\"$top/system.slice\"]" /etc/sotto/sotto.toml
	systemctl enable --quiet sotto sotto-lan-ask
	exit
fi
systemctl disable --quiet --now sotto-lan-ask
systemctl stop sotto
cp /etc/sotto/sotto.toml /run/sotto.toml.good
for step in ${SOTTO_STEPS:-start crash watchdog reload control_group restart failed_restart unit filters serve stop purge}; do
	"test_$step"
done
say "systemd: all steps passed in $SECONDS s"
