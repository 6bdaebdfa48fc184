#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Records `sotto top` and `sotto trace` in a terminal and draws them as docs/top.svg and docs/trace.svg, the pictures in
# README.md. Sotto seals seven services that ask names all the time, in namespaces of its own, without internet access.
#
#   sudo ./scripts/screenshots.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

readonly COLUMNS=112
readonly SLICES=(shop.slice batch.slice)

# ask SERVICE PAUSE NAME…: asks the names in turn from the cgroup of a service, with a pause in seconds.
ask() {
	local service=$root/$1 pause=$2 name
	shift 2
	mkdir -p "$service"
	(
		echo "$BASHPID" >"$service/cgroup.procs"
		while :; do
			for name in "$@"; do
				dig +short +tries=1 +time=1 @192.0.2.53 "${name/RANDOM/$RANDOM}" >/dev/null || true
				sleep "$pause"
			done
		done
	) &
}

terminal() { tmux -u -S "$work/tmux" "$@"; }

# record NAME ROWS SECONDS TITLE COMMAND…: shows a command in a terminal for some seconds, and draws it.
record() {
	local name=$1 rows=$2 seconds=$3 title=$4
	shift 4
	terminal -f /dev/null new-session -d -s "$name" -x $COLUMNS -y "$rows" -- "$@"
	sleep "$seconds"
	terminal capture-pane -t "$name" -e -p >"$work/$name.txt"
	terminal kill-session -t "$name"
	"$work/screenshot" -columns $COLUMNS -title "$title" <"$work/$name.txt" >"$out/$name.svg"
	note "$out/$name.svg"
}

remove_cgroups() {
	local slice
	for slice in "${SLICES[@]}"; do
		[[ ! -e $root/$slice ]] || find "$root/$slice" -depth -type d -exec rmdir {} \;
	done
}

# inside WORK OUT ROOT: runs in the sandbox, whose processes end with it.
inside() {
	work=$1 out=$2 root=$3
	local control=$work/control.sock slice
	# The veth pair makes a default route possible.
	ip link add up0 type veth peer name up1
	ip link set up1 up
	ip address add 192.0.2.10/24 dev up0
	ip link set up0 up
	ip route add default via 192.0.2.1
	for slice in "${SLICES[@]}"; do mkdir "$root/$slice"; done
	bin/sotto demo upstream --listen 127.0.0.2:853 --ca-out "$work/ca.pem" 2>"$work/upstream.log" &
	wait_for 10 "the upstream" test -s "$work/ca.pem"
	cat >"$work/sotto.toml" <<-END
		control = "$control"
		cgroups = ["shop.slice", "batch.slice"]
		guard = "off"
		ca-file = "$work/ca.pem"
		upstream = ["127.0.0.2:853#dns.example"]
		[[group]]
		name = "corp"
		upstream = ["127.0.0.3:853#dns.corp.example"]
		[[rule]]
		name = "corp.example"
		use = "corp"
		[[rule]]
		name = "ads.example.net"
		use = "nxdomain"
	END
	bin/sotto run --config "$work/sotto.toml" 2>"$work/run.log" &
	local run=$!
	wait_for 20 "sotto run" bin/sotto status --ready --control "$control"
	ask shop.slice/web.service 0.02 www.example.com api.example.com img-RANDOM.cdn.example.org www.example.com
	ask shop.slice/api.service 0.1 db.example.com cache.example.com auth.example.net
	ask shop.slice/payment.service 0.4 payment.example.net payment.example.net RANDOM.trace.example.net
	ask shop.slice/search.service 0.2 shard-1.example.com shard-2.example.com shard-3.example.com
	ask batch.slice/backup.service 2 backup.example.org
	ask shop.slice/mail.service 0.7 mx.example.org ads.example.net RANDOM.dnsbl.example.org
	ask batch.slice/report@7.service 0.3 ledger.corp.example files.example.com
	# The plot of all queries shows the last minute.
	record top 15 60 "sotto top: workloads by rate" bin/sotto top --control "$control"
	record trace 18 5 "sotto trace: queries as they are answered" bin/sotto trace --control "$control"
	stop "$run" 20
}

if [[ ${1:-} == inside ]]; then
	shift
	inside "$@"
	exit
fi

need_root
ensure_go
install_missing "ip iproute2" "tmux tmux" "dig bind9-dnsutils"
out=$(realpath "${1:-docs}")
root=$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
[[ -n $root ]] || die "cgroup v2 is not mounted; mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
for slice in "${SLICES[@]}"; do [[ ! -e $root/$slice ]] || die "the cgroup $root/$slice exists; remove it: rmdir $root/$slice"; done
work=$(mktemp -d /tmp/sotto-screenshots.XXXXXX)
defer rm -rf "$work"
defer remove_cgroups
say "go build"
build
go build -o "$work/screenshot" ./internal/screenshot
say "record top and trace"
sandbox_pid bash "$0" inside "$work" "$out" "$root"
