# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Measures cached answers through the seal, and what they are compared with: forwarders that are queried directly, the
# same behind address translation, and a datagram that a socket sends to itself. Sourced by scripts/bench.sh after
# measure.sh; runs in the sandbox.
#
# shellcheck disable=SC2154 # set by bench.sh: PORT, NEAR, AUTH, CA, work, raw, tool, seconds, peers

# The nameserver that the clients of the paths ask.
readonly ASKED=8.8.8.8

# Where a client sends datagrams to itself: over loopback, and like a query: to port 53 of an address that is not one of
# loopback. What watches DNS on a machine costs the second one as much as a query.
readonly SELF=self=127.0.0.1:0 SELF_DNS=self=198.18.53.1:53

# record_path NAME SERVER [COMMAND…]: measures one path. COMMAND runs the client.
record_path() {
	local path=$1 server=$2 metric value
	shift 2
	# The first one fills the cache, and answers that are asked for again become answers of the kernel.
	"$@" "$tool" hits --server "$server" --for 1s >/dev/null || { failed "$path" "no answers" && return 0; }
	"$@" "$tool" hits --server "$server" --for 1s --batch 32 --threads 2 >/dev/null || true
	while read -r metric value; do
		case $metric in p50_us) printf 'path\t%s\t%s\t%s\n' "$path" "$metric" "$value" ;; esac
	done < <("$@" "$tool" hits --server "$server" --for "${seconds}s") >>"$raw"
	while read -r metric value; do
		case $metric in
		qps) printf 'path\t%s\thit_qps\t%s\n' "$path" "$value" ;;
		cpu) printf 'path\t%s\thit_cpu\t%s\n' "$path" "$value" ;;
		esac
	done < <("$@" "$tool" hits --server "$server" --for "${seconds}s" --batch 32 --threads 2) >>"$raw"
}

# dnat on|off: translates queries to ASKED to the forwarder at PORT.
dnat() {
	if [[ $1 == off ]]; then
		nft delete table ip bench
		ip route del $ASKED dev lo
		return
	fi
	ip route add $ASKED dev lo src 127.0.0.1
	nft -f - <<-END
		table ip bench {
			chain output {
				type nat hook output priority -100;
				ip daddr $ASKED udp dport 53 dnat to 127.0.0.1:$PORT
			}
		}
	END
}

# path_peer NAME: a forwarder that is queried directly, and through DNAT.
path_peer() {
	peer=$1
	start_peer "$peer" $PORT $NEAR || return 0
	record_path "$peer" 127.0.0.1:$PORT
	dnat on
	record_path "$peer, DNAT" $ASKED:53
	dnat off
	stop_peer
}

# path_group: prints the directory of the sealed cgroup, and remove_path_group removes it.
path_group() { echo "$(cgroup2)/${work##*/}"; }
remove_path_group() { rmdir "$(path_group)"/* "$(path_group)" 2>/dev/null || true; }

# path_seal WHERE on|off: a client in a sealed cgroup. WHERE is who answers.
path_seal() {
	local group
	group=$(path_group)
	mkdir "$group"
	dir=$(mktemp -d "$work/seal.XXXXXX") peer="seal, answered in $1"
	printf 'kernel-answers = "%s"\n' "$2" >"$dir/sotto.toml"
	start "$dir" bin/sotto run --config "$dir/sotto.toml" --cgroup "$group" -u "127.0.0.1:$NEAR#$AUTH" --ca-file "$CA"
	if sealed; then
		# shellcheck disable=SC2016 # expanded by the inner shell
		record_path "$peer" $ASKED:53 sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group"
	else
		failed "$peer" "no seal after 20 s"
	fi
	stop_peer
	remove_path_group
}

# sealed: waits until the program in `dir` has sealed its cgroup.
sealed() {
	local end=$((SECONDS + 20))
	until grep -q msg=sealed "$dir/log"; do
		((SECONDS < end)) && alive || return 1
		sleep 0.1
	done
}

# measure_flood ROW on|off [SERVER]: the latency of misses of a sealed workload beside another, which floods SERVER. The
# second argument is kernel-answers.
measure_flood() {
	local group flooder metric value enter
	group=$(path_group)
	mkdir "$group" "$group/modest" "$group/greedy"
	dir=$(mktemp -d "$work/seal.XXXXXX") peer="flood: $1"
	printf 'kernel-answers = "%s"\n' "$2" >"$dir/sotto.toml"
	start "$dir" bin/sotto run --config "$dir/sotto.toml" --cgroup "$group" -u "127.0.0.1:$NEAR#$AUTH" --ca-file "$CA"
	if sealed; then
		# shellcheck disable=SC2016 # expanded by the inner shell
		enter='echo $$ >"$1/cgroup.procs" && shift && exec "$@"'
		flooder=
		if [[ -n ${3:-} ]]; then
			sh -c "$enter" sh "$group/greedy" "$tool" hits --server "$3" --for 2s --batch 32 >/dev/null || true # fills the cache
			sh -c "$enter" sh "$group/greedy" "$tool" hits --server "$3" --for "$((seconds + 2))s" --batch 32 >"$dir/flood" &
			flooder=$!
			sleep 1
		fi
		while read -r metric value; do
			case $metric in p50_us | p99_us) printf 'variant\tA workload that floods\t%s\t%s\t%s\n' "$1" "$metric" "$value" ;; esac
		done < <(sh -c "$enter" sh "$group/modest" "$tool" latency --server $ASKED:53 --rate 1000 --for "${seconds}s" --miss-every 1 --prefix "flood-$RANDOM") >>"$raw"
		if [[ -n $flooder ]]; then
			wait "$flooder"
			awk -v row="$1" '$1 == "qps" { printf "variant\tA workload that floods\t%s\tflood_qps\t%s\n", row, $2 }' "$dir/flood" >>"$raw"
		fi
	else
		failed "$peer" "no seal after 20 s"
	fi
	stop_peer
	remove_path_group
}

# measure_floods: a workload that floods, and what it is compared with.
measure_floods() {
	measure_flood "alone" on
	measure_flood "beside datagrams to oneself" on $SELF
	measure_flood "beside a flood, answered in the kernel" on $ASKED:53
	measure_flood "beside a flood, answered in user space" off $ASKED:53
}

# measure_exec: what it costs to seal a command: the time of one that does nothing, and its first queries.
measure_exec() {
	local i before started value exec=(bin/sotto exec -u "127.0.0.1:$NEAR#$AUTH" --ca-file "$CA" --)
	for ((i = 0; i < 10; i++)); do
		started=$(date +%s%N)
		"${exec[@]}" true || { failed "exec -- true" "status $?" && return 0; }
		printf 'variant\tThe cost of a seal\tsotto exec\texec_ms\t%s\n' "$(calc "($(date +%s%N) - $started) / 1e6")" >>"$raw"
		for before in 0 1; do
			while read -r _ value; do
				printf 'variant\tThe cost of a seal\tsotto exec\tquery%s_us\t%s\n' $((before + 1)) "$value" >>"$raw"
			done < <("${exec[@]}" "$tool" idle --cycles 1 --before $before --pause 0s "exec=$ASKED:53")
		done
	done
}

# measure_paths NAME…: measures all paths once.
measure_paths() {
	local name
	record_path "a datagram to oneself" $SELF
	ip route add local 198.18.53.0/24 dev lo
	record_path "a datagram to oneself, to port 53" $SELF_DNS
	ip route del local 198.18.53.0/24 dev lo
	path_seal "the kernel" on
	path_seal "user space" off
	for name in sotto "$@"; do
		! has_cache "$name" || path_peer "$name"
	done
}
