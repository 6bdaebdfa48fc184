#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compares Sotto with other forwarders (peers) and writes docs/BENCHMARKS.md and its plots. All forwarders get the same
# upstream and the same load, in isolated namespaces. scripts/bench/peers.sh has their configurations; docs/BENCHMARKS.md
# describes the method.
#
#   sudo ./scripts/bench.sh                          all peers: about an hour
#   sudo ./scripts/bench.sh --only unbound,coredns   only Sotto and these
#
#   --rounds 3         measurements of each forwarder
#   --seconds 5        duration of each measurement
#   --entries 1000000  cached answers for the memory measurement
#   --out DIR          output directory; default: docs, or dist/bench for shorter or partial runs
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-guest-root.sh
. scripts/bench/peers.sh
. scripts/bench/measure.sh
. scripts/bench/paths.sh
. scripts/bench/variants.sh

packages=(
	"nsd nsd"
	"dnsperf dnsperf"
	"dig bind9-dnsutils"
	"ip iproute2"
	"pgrep procps"
	"nft nftables"
	"mmdebstrap mmdebstrap"
	"dnssec-signzone bind9-utils"
)

# Time limit of all rounds, for machines on which peers time out.
readonly ROUNDS_LIMIT=$((25 * 60))
# Time limit in seconds to fill a cache, and number of entries queried again afterwards.
readonly FILL_LIMIT=45 SAMPLE=2000

# Ports of the upstreams: nsd, a server with a delay of 20 ms, an nsd that closes idle connections, and one that does not.
readonly NEAR=8853 FAR=8854 CLOSING=8855 KEEPING=8859
readonly PORT=5301 IDLE_PORT=5310 # port of the forwarder under test; first port of the forwarders in after_idle
readonly AUTH=dns.example ZONE=bench.example

# ---- in the sandbox ---------------------------------------------------------------------------------------

# start_nsd NAME PORT IDLE [ZONE]: starts nsd, which closes a connection after IDLE seconds of silence. One process is faster than
# any forwarder on shared cores; with several, the distribution of a forwarder's few connections would be random. All
# limits are at their maximum.
start_nsd() {
	local dir=$work/nsd-$1
	mkdir -p "$dir"
	printf '$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n* A 192.0.2.1\n' >"$dir/zone"
	[[ -z ${4:-} ]] || cp "$4" "$dir/zone"
	cat >"$work/$1.conf" <<-END
		server:
		    server-count: 1
		    ip-address: 127.0.0.1
		    port: $2
		    tls-port: $2
		    tls-service-key: "$work/key.pem"
		    tls-service-pem: "$work/cert.pem"
		    username: ""
		    chroot: ""
		    database: ""
		    zonesdir: "$dir"
		    zonelistfile: "$dir/zone.list"
		    xfrdfile: "$dir/xfrd.state"
		    xfrdir: "$dir"
		    pidfile: ""
		    tcp-count: 4000
		    tcp-query-count: 0
		    tcp-timeout: $3
		    rrl-ratelimit: 0
		remote-control:
		    control-enable: yes
		    control-interface: "$dir/control"
		zone:
		    name: "."
		    zonefile: zone
	END
	nsd -d -c "$work/$1.conf" >"$work/$1.log" 2>&1 &
	defer stop $!
}

start_upstreams() {
	start_nsd near $NEAR 600
	start_nsd closing $CLOSING 2
	start_nsd keeping $KEEPING 600
	"$tool" upstream --dir "$work" --listen 127.0.0.1:$FAR --delay 20ms >"$work/far.log" 2>&1 &
	defer stop $!
	wait_for 20 "nsd (see $work/near.log)" upstream_queries
	for port in $CLOSING $KEEPING $FAR; do wait_for 20 "the upstream at $port" listening "$port"; done
}
listening() { [[ -n $(ss -Htln "sport = :$1") ]]; }

# Each file has names of its own, by prefix. dnsperf -n 1 reads a file once, so that no name is repeated.
make_names() {
	local count=$((seconds * 200000)) # more than any forwarder can answer in that time
	seq -f "hit-%.0f.$ZONE A" 0 999 >"$work/names-hits"
	seq -f "a%.0f.$ZONE A" $count >"$work/names-100"
	seq -f "b%.0f.$ZONE A" $count >"$work/names-1000"
	seq -f "c%.0f.$ZONE A" $count >"$work/names-far"
	seq -f "d%.0f.$ZONE A" "$entries" >"$work/names-fill"
}

inside() {
	local name round
	work=$1 rounds=$2 seconds=$3 entries=$4
	shift 4
	raw=$work/raw.tsv tool=$work/sotto-bench CA=$work/ca.pem seq=0
	CORES=$(nproc) HZ=$(getconf CLK_TCK) BINS=bin/peers
	# More than the number of entries, because shards and slabs do not fill evenly. At least so much that the misses of a
	# short run do not evict the hits.
	CAPACITY=$((entries * 5 / 4))
	((CAPACITY >= 1250000)) || CAPACITY=1250000
	ulimit -n "$(ulimit -Hn)"
	NEWEST=$work/newest
	mount_newest
	say "upstreams"
	start_upstreams
	start_variant_upstreams
	make_names
	for ((round = 1; round <= rounds; round++)); do
		for name in "$@"; do
			if ((SECONDS > ROUNDS_LIMIT)); then
				note "time limit reached in round $round of $rounds"
				printf 'meta\trounds\t%s of %s\n' $((round - 1)) "$rounds" >>"$raw"
				break 2
			fi
			say "round $round of $rounds: Sotto, then $name"
			measure sotto
			measure "$name"
		done
		say "round $round of $rounds: dnsperf asks the upstream itself"
		measure_direct || failed direct "no answers"
	done
	say "memory of $entries cached answers"
	for name in sotto "$@"; do
		! has_cache "$name" || measure_memory "$name"
	done
	for ((round = 1; round <= rounds; round++)); do
		say "round $round of $rounds: cached answers through the seal; a flood; validation; HTTPS and QUIC"
		measure_paths "$@"
		measure_floods
		measure_exec
		measure_validation "$@"
		measure_transports "$@"
	done
	say "latency after an idle close"
	measure_after_idle sotto "$@"
}

# ---- setup --------------------------------------------------------------------------------------------------

# skip NAME REASON
skip() {
	printf 'skipped\t%s\t%s\n' "$1" "${2//$'\t'/ }" >>"$raw"
	say "SKIPPED $1: $2"
}

selected() { [[ -z $only || ,$only, == *,$1,* ]]; }

# add_peer NAME LANGUAGE: includes a forwarder in the comparison.
add_peer() {
	peers+=("$1")
	printf 'peer\t%s\t%s\t%s\n' "$1" "$("version_$1")" "$2" >>"$raw"
}

# build_go_peer NAME MODULE VERSION PACKAGE: builds a peer in a temporary module that requires MODULE. Not with `go install`,
# which rejects modules with replace directives.
build_go_peer() {
	local dir=$work/build-$1
	! go version -m "bin/peers/$1" 2>/dev/null | grep -qE "[[:space:]]$2[[:space:]]+$3[[:space:]]" || return 0
	note "go build $2 $3"
	mkdir -p "$dir" bin/peers
	printf 'module peer\n\ngo %s\n\nrequire %s %s\n' "$(go_required)" "$2" "$3" >"$dir/go.mod"
	(cd "$dir" && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -o "$OLDPWD/bin/peers/$1" "$2${4#.}") >"$work/build.log" 2>&1
}

find_peers() {
	local line
	add_peer sotto go
	peers=() # without Sotto, which runs before each of them
	for line in "${DEBIAN_PEERS[@]}"; do
		read -ra line <<<"$line"
		selected "${line[0]}" || continue
		if [[ -x ${line[1]} ]] || apt_has "${line[2]}"; then
			install_missing "${line[1]} ${line[2]}"
			add_peer "${line[0]}" c
		else
			skip "${line[0]}" "no package ${line[2]} in this suite"
		fi
	done
	newest_peers
	say "peers written in Go"
	for line in "${GO_PEERS[@]}"; do
		read -ra line <<<"$line"
		selected "${line[0]}" || continue
		if build_go_peer "${line[@]}"; then
			add_peer "${line[0]}" go
		else
			skip "${line[0]}" "${line[1]} ${line[2]} does not build here ($(grep -v '^go: downloading' "$work/build.log" | tail -n1 | sed -E 's/reading [^ ]+: //'))"
		fi
	done
	printf 'peer\tdirect\t%s\tc\n' "$(dnsperf -h 2>&1 | sed -n 's/^Version //p')" >>"$raw"
	((${#peers[@]})) || die "no peer selected; --only accepts $(printf '%s\n' "${DEBIAN_PEERS[@]}" "${NEWEST_PEERS[@]}" "${GO_PEERS[@]}" | sed 's/ .*//' | xargs)"
}

# newest_peers: includes the peers of Debian's testing suite. Mirrors may have an old copy of it, hence Check-Valid-Until.
newest_peers() {
	local name any=
	for name in "${NEWEST_PEERS[@]}"; do ! selected "$name" || any=1; done
	[[ -n $any ]] || return 0
	if ! (cached_root testing "$NEWEST_PACKAGES" --aptopt='Acquire::Check-Valid-Until "false"') 2>"$work/newest.log"; then
		for name in "${NEWEST_PEERS[@]}"; do skip "$name" "no Debian testing: $(tail -n1 "$work/newest.log")"; done
		return
	fi
	cached_root testing "$NEWEST_PACKAGES" --aptopt='Acquire::Check-Valid-Until "false"' >/dev/null # sets root_tar
	mkdir "$NEWEST"
	tar -C "$NEWEST" --exclude='./dev/*' -xf "$root_tar"
	for name in "${NEWEST_PEERS[@]}"; do
		! selected "$name" || add_peer "$name" c
	done
}

# mount_newest: lets programs of NEWEST use the directories of the sandbox.
mount_newest() {
	[[ -d $NEWEST ]] || return 0
	mkdir -p "$NEWEST$work"
	mount --bind "$work" "$NEWEST$work"
	mount --bind /run "$NEWEST/run"
	mount --rbind /dev "$NEWEST/dev"
	mount --rbind /proc "$NEWEST/proc"
}

write_meta() {
	local key value
	while read -r key value; do printf 'meta\t%s\t%s\n' "$key" "$value" >>"$raw"; done <<-END
		cores $(nproc)
		kernel $(uname -r | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
		rounds $rounds
		seconds $seconds
		entries $(sed ':a; s/\B[0-9]\{3\}\>/,&/; ta' <<<"$entries")
		nsd $(nsd -v 2>&1 | sed -n 's/^NSD version //p')
		dnsperf $(dnsperf -h 2>&1 | sed -n 's/^Version //p')
		go $(go env GOVERSION | sed 's/^go//')
	END
}

if [[ ${1:-} == inside ]]; then
	shift
	inside "$@"
	exit
fi
rounds=3 seconds=5 entries=1000000 only='' out=''
while (($#)); do
	case $1 in
	--rounds) rounds=${2:?} ;;
	--seconds) seconds=${2:?} ;;
	--entries) entries=${2:?} ;;
	--only) only=${2:?} ;;
	--out) out=${2:?} ;;
	*) die "unknown option $1; see the comment at the top of this script" ;;
	esac
	shift 2
done
[[ $rounds$seconds$entries =~ ^[1-9][0-9]*$ ]] || die "--rounds, --seconds and --entries must be positive integers"
if [[ -z $out ]]; then
	out=docs
	# Do not overwrite the published results with those of a shorter run.
	((rounds >= 3 && seconds >= 5 && entries >= 1000000)) && [[ -z $only ]] || out=dist/bench
fi
need_root
install_missing "${packages[@]}"
ensure_go
work=$(mktemp -d /var/tmp/sotto-bench.XXXXXX)
defer rm -rf "$work"
defer remove_path_group
raw=$work/raw.tsv NEWEST=$work/newest peers=()
# Keep the raw results after a failure.
mkdir -p dist/bench
defer cp "$raw" dist/bench/raw.tsv
say "go build"
build
CGO_ENABLED=0 go build -trimpath -o "$work/sotto-bench" ./cmd/sotto-bench
BINS=bin/peers
find_peers
write_meta
"$work/sotto-bench" cert --dir "$work" --name $AUTH
say "$((rounds * ${#peers[@]})) measurements of Sotto and a peer; about $(((rounds * 2 * ${#peers[@]} * (5 * seconds + 6) + ${#peers[@]} * entries / 33000 + 100) / 60 + 1)) minutes, then the seal, validation, HTTPS and QUIC: $((rounds * (${#peers[@]} * 30 + 60) / 60)) minutes"
started=$SECONDS
sandbox_pid bash "$0" inside "$work" "$rounds" "$seconds" "$entries" "${peers[@]}"
mkdir -p "$out"
say "results, after $(((SECONDS - started) / 60)) minutes"
"$work/sotto-bench" report --raw "$raw" --out "$out"
chown -R --reference=go.mod bin dist "$out/BENCHMARKS.md" "$out"/benchmarks*.svg
note "$out/BENCHMARKS.md and its plots; raw results in dist/bench/raw.tsv"
