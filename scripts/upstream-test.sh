#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compares `sotto serve` over every encrypted transport with the server behind it, for servers of other projects, while
# connections are killed and closed, servers are reloaded and addresses of this machine change. Each reply has to be the
# same as the server's own. Everything runs in a sandbox without external connectivity.
#
#   sudo ./scripts/upstream-test.sh                    all servers: about 12 minutes
#   sudo ./scripts/upstream-test.sh --only 'doh-.*'    only these (a regular expression)
#   --queries 30000 --rate 1500                        for each server
#
# scripts/upstream/servers.sh has the servers and their configurations.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-guest-root.sh
. scripts/upstream/servers.sh

readonly NSD=5300 SOTTO=5301 # plain ports
readonly AUTH=dns.example

only='.*' queries=30000 rate=1500

# ---- in the sandbox ---------------------------------------------------------------------------------------

listening() { [[ -n $(ss -Htuln "sport = :$1") ]]; }
answers() { dig @127.0.0.1 -p "$1" +time=1 +tries=1 +noall +comments "up$RANDOM.a.compare.test" | grep -q 'status: NOERROR'; }

# write_zone FILE: the zone of the names that scripts/upstream/main.go asks for.
write_zone() {
	local long
	long=$(printf 'x%.0s' $(seq 250))
	{
		# shellcheck disable=SC2016 # $ORIGIN and $TTL belong to the zone
		printf '$ORIGIN compare.test.\n$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.53\ntarget A 192.0.2.9\n'
		printf '*.a A 192.0.2.1\n*.a A 192.0.2.2\n*.a AAAA 2001:db8::1\n*.txt TXT "%s" "short"\n*.big TXT' "$long"
		for _ in $(seq 10); do printf ' "%s"' "$long"; done
		printf '\n*.mx MX 10 target\n*.mx MX 20 ns\n*.cname CNAME target\n*.srv SRV 1 2 853 target\nnone A 192.0.2.8\n'
	} >"$1"
}

start_nsd() {
	mkdir -p "$work/nsd"
	write_zone "$work/nsd/zone"
	cat >"$work/nsd/conf" <<-END
		server:
		    ip-address: 127.0.0.1
		    port: $NSD
		    username: ""
		    chroot: ""
		    database: ""
		    zonesdir: "$work/nsd"
		    zonelistfile: "$work/nsd/zone.list"
		    xfrdfile: "$work/nsd/xfrd.state"
		    xfrdir: "$work/nsd"
		    pidfile: ""
		    tcp-count: 1000
		    rrl-ratelimit: 0
		zone:
		    name: compare.test
		    zonefile: zone
	END
	nsd -d -c "$work/nsd/conf" >"$work/nsd/log" 2>&1 &
	wait_for 20 "nsd (see $work/nsd/log)" answers $NSD
}

# disturb PORT RELOAD…: kills connections on both ends, changes addresses and reloads the server, in turn, every half
# second.
disturb() {
	local port=$1 n=0
	shift
	while sleep 0.5; do
		case $((n++ % 4)) in
		0) ss -K dst 127.0.0.1 dport = ":$port" && ss -K -u dst 127.0.0.1 dport = ":$port" ;;
		1) ip address add 192.0.2.77/32 dev lo && ip address del 192.0.2.77/32 dev lo ;;
		2) ss -K src 127.0.0.1 sport = ":$port" ;;
		3) "$@" ;;
		esac >/dev/null 2>&1 || true
	done
}

# compare NAME URL PORT RELOAD…: runs Sotto with that upstream and compares, twice: the second time disturbed.
compare() {
	local name=$1 url=$2 port=$3 round disturber sotto
	shift 3
	bin/sotto serve -l 127.0.0.1:$SOTTO -u "$url" --ca-file "$work/ca.pem" --cache-mib 0 "${options[@]}" --control "$work/$name.sock" --log-level debug >"$work/$name.sotto.log" 2>&1 &
	sotto=$!
	wait_for 20 "Sotto with $name (see $work/$name.sotto.log and $work/$name/log)" answers $SOTTO
	for round in quiet disturbed; do
		disturber=
		[[ $round == quiet ]] || { disturb "$port" "$@" & disturber=$!; }
		if ! "$work/compare" -forwarder 127.0.0.1:$SOTTO -direct "127.0.0.1:$direct" -n "$queries" -rate "$rate" -prefix "$round" >"$work/$name.$round"; then
			failures+=("$name $round")
		fi
		[[ -z $disturber ]] || kill "$disturber"
		say "$name, $round: $(cat "$work/$name.$round")"
		note "$(bin/sotto status --json --control "$work/$name.sock" | python3 -c 'import json,sys
s=json.load(sys.stdin)["groups"][0]["servers"][0]
print("%s, %s; %d connections opened, %d failed, %d resumed" % (s.get("protocol"), s.get("key_exchange"), s["dials"], s["dial_errors"], s["resumed"]))')"
	done
	stop $sotto
}

inside() {
	local line name url port reload
	work=$1 only=$2 queries=$3 rate=$4 root=$work/root
	ulimit -n "$(ulimit -Hn)"
	failures=() compared=0
	mount --bind /dev "$root/dev"
	mount -t proc proc "$root/proc"
	mkdir -p "$root/work"
	mount --bind "$work" "$root/work"
	start_nsd
	for line in "${SERVERS[@]}"; do
		read -r name url port reload <<<"$line"
		[[ $name =~ ^($only)$ ]] || continue
		compared=$((compared + 1))
		mkdir -p "$work/$name"
		pids=() direct=$NSD options=()
		"server_${name//-/_}" "$work/$name" "$port"
		compare "$name" "${url//PORT/$port}" "$port" "${reload:-true}" "$work/$name"
		for pid in "${pids[@]}"; do stop "$pid"; done
	done
	((compared)) || die "no server is called $only"
	((${#failures[@]} == 0)) || die "failed: ${failures[*]}"
}

# ---- setup ------------------------------------------------------------------------------------------------

# build_go_server NAME MODULE VERSION PACKAGE: builds a server in a temporary module.
build_go_server() {
	local dir=$work/build-$1
	! go version -m "bin/peers/$1" 2>/dev/null | grep -qE "[[:space:]]$2[[:space:]]+$3[[:space:]]" || return 0
	note "go build $2 $3"
	mkdir -p "$dir" bin/peers
	printf 'module server\n\ngo %s\n\nrequire %s %s\n' "$(go_required)" "$2" "$3" >"$dir/go.mod"
	(cd "$dir" && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -o "$OLDPWD/bin/peers/$1" "$2${4#.}") >"$work/build.log" 2>&1 ||
		die "cannot build $2: $(tail -n1 "$work/build.log")"
}

main() {
	local line
	while (($#)); do
		case $1 in
		--only) only=$2 ;;
		--queries) queries=$2 ;;
		--rate) rate=$2 ;;
		*) die "unknown option $1" ;;
		esac
		shift 2
	done
	need_root
	ensure_go
	install_missing "nsd nsd" "dig bind9-dnsutils" "ip iproute2" "openssl openssl" "/usr/bin/dnsdist dnsdist" "nginx nginx" "haproxy haproxy" \
		"tinyproxy tinyproxy-bin" "microsocks microsocks" "mmdebstrap mmdebstrap" "python3 python3-minimal"
	work=$(mktemp -d /tmp/sotto-upstream.XXXXXX)
	chmod 755 "$work"
	defer rm -rf "$work"
	# A mirror may be a snapshot, whose index has expired; its signature is checked in any case.
	cached_root testing "$ROOT_PACKAGES" --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"'
	mkdir "$work/root"
	tar -C "$work/root" -xf "$root_tar"
	build
	go build -o "$work/compare" ./scripts/upstream
	for line in "${GO_SERVERS[@]}"; do
		# shellcheck disable=SC2086 # fields
		build_go_server $line
	done
	go run ./cmd/sotto-bench cert --dir "$work" --name $AUTH
	cat "$work/cert.pem" "$work/key.pem" >"$work/both.pem"
	chmod 644 "$work"/*.pem
	sandbox_pid bash "$0" inside "$work" "$only" "$queries" "$rate"
	say "all replies are the same"
}

if [[ ${1:-} == inside ]]; then
	inside "${@:2}"
else
	main "$@"
fi
