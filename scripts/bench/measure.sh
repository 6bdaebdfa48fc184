# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs and measures one forwarder. Sourced by scripts/bench.sh; runs in the sandbox.
#
# shellcheck disable=SC2154 # set by bench.sh:
# NEAR, FAR, CLOSING, KEEPING (ports of the upstreams), PORT, IDLE_PORT, ZONE, FILL_LIMIT, SAMPLE, HZ; work, raw,
# tool, seconds, entries, seq.

# The running forwarder: its name, processes and directory.
peer='' pids=() dir=''

# ---- running one forwarder ----------------------------------------------------------------------------------

# start_peer NAME PORT UPSTREAM: starts a forwarder and waits for its first answer. Sets `pids` and `dir`.
start_peer() {
	local end
	pids=()
	dir=$(mktemp -d "$work/$1.XXXXXX")
	"peer_$1" "$2" "$3" "$dir"
	end=$((SECONDS + 20))
	until ready "$2"; do
		if ((SECONDS >= end)) || ! alive; then
			failed "$1" "no answer after its start"
			stop_peer
			return 1
		fi
		sleep 0.1
	done
	# With several processes or sockets, the others may become ready later.
	sleep 0.5
}

ready() {
	dig +time=1 +tries=1 +noall +comments @127.0.0.1 -p "$1" "up-$RANDOM$RANDOM.$ZONE" 2>/dev/null | grep -q 'status: NOERROR'
}

alive() {
	local pid
	for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}

stop_peer() {
	local pid
	for pid in "${pids[@]}"; do stop "$pid" 5; done
	pids=()
	rm -rf "$dir" /run/kresd
}

# failed NAME REASON: records a failure and prints the end of the forwarder's log. The run continues.
failed() {
	printf 'failed\t%s\t%s\n' "$1" "$2" >>"$raw"
	note "FAILED $1: $2"
	tail -n 5 "$dir/log" 2>/dev/null | sed 's/^/      /' >&2 || true
}

# ---- figures ------------------------------------------------------------------------------------------------

# record METRIC VALUE
record() { printf 'run\t%s\t%s\t%s\t%s\n' "$seq" "$peer" "$1" "$2" >>"$raw"; }
calc() { awk "BEGIN { print $1 }"; }

# ticks PID…: prints the user and system time of processes. The name in stat may contain blanks and parentheses, so fields
# are read after the last parenthesis: state, ppid, …
ticks() {
	local pid stat fields total=0
	for pid in "$@"; do
		stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
		read -ra fields <<<"${stat##*) }"
		total=$((total + fields[11] + fields[12]))
	done
	echo $total
}

# memory: prints the memory of the forwarder's processes in bytes, counting shared memory once.
memory() {
	local pid
	for pid in "${pids[@]}"; do cat "/proc/$pid/smaps_rollup"; done 2>/dev/null | awk '/^Pss:/ { kb += $2 } END { printf "%d\n", kb * 1024 }'
}

# upstream_ticks: prints the CPU time of nsd. upstream_queries: prints the number of queries that nsd received. For the
# latter, nsd replaces its server process and closes all connections, so it is not called during speed measurements.
upstream_ticks() {
	local all
	mapfile -t all < <(pgrep '^nsd')
	ticks "${all[@]}"
}
upstream_queries() { nsd-control -c "$work/near.conf" stats_noreset | sed -n 's/^num.queries=//p'; }

# load NAMES OUTSTANDING [ARG…]: runs dnsperf on the forwarder; sets sent, answers (NOERROR only) and elapsed.
# The timeout of two seconds is sufficient because all upstreams are near.
load() {
	local out
	out=$(timeout $((FILL_LIMIT + seconds + 20)) dnsperf -s 127.0.0.1 -p $PORT -c 8 -t 2 -q "$2" -d "$work/$1" "${@:3}" 2>/dev/null) || true
	read -r sent answers elapsed < <(awk '
		/Queries sent:/ { sent = $3 }
		/Run time/ { elapsed = $4 }
		/Response codes:/ && match($0, /NOERROR [0-9]+/) { answers = substr($0, RSTART + 8, RLENGTH - 8) }
		END { print sent + 0, answers + 0, (elapsed > 0 ? elapsed : 1) }' <<<"$out")
	((answers > 0)) && alive
}

# count_connections FILE: writes the maximum number of open TLS connections to nsd, counted at the client's end, until it is
# killed.
count_connections() {
	local now max=0
	while :; do
		now=$(ss -Htn state established "dport = :$NEAR" | wc -l)
		((now <= max)) || { max=$now && echo "$max" >"$1"; }
		sleep 0.25
	done
}

# ---- measurements of a round --------------------------------------------------------------------------------

# measure NAME: runs all measurements of a round.
measure() {
	peer=$1
	seq=$((seq + 1))
	start_peer "$peer" $PORT $NEAR || return 0
	# Hits first: a cache without eviction (dnsdist) would not store them once it is full.
	{ ! has_cache "$peer" || hits; } && latency && misses && misses_1000 ||
		failed "$peer" "no answers, or exited, during a run"
	stop_peer
	start_peer "$peer" $PORT $FAR || return 0
	if load names-far 1000 -n 1 -l "$seconds"; then
		record slow_qps "$(calc "$answers / $elapsed")"
	else
		failed "$peer" "no answers, or exited, with an upstream 20 ms away"
	fi
	stop_peer
}

# measure_direct: the client asks the upstream itself, over TLS, with as many connections as it has sockets otherwise.
measure_direct() {
	local out
	peer=direct seq=$((seq + 1))
	pids=()
	load names-100 100 -n 1 -l "$seconds" -m dot -p $NEAR && record miss_qps "$(calc "$answers / $elapsed")"
}

misses() {
	local cpu nsd
	cpu=$(ticks "${pids[@]}") nsd=$(upstream_ticks)
	load names-100 100 -n 1 -l "$seconds" || return 1
	record miss_qps "$(calc "$answers / $elapsed")"
	record miss_cpu "$(calc "($(ticks "${pids[@]}") - $cpu) / $HZ * 1e6 / $answers")"
	record upstream_busy "$(calc "($(upstream_ticks) - $nsd) / $HZ / $elapsed")"
	record lost "$(calc "1 - $answers / $sent")"
}

misses_1000() {
	local counter
	echo 0 >"$work/connections"
	count_connections "$work/connections" &
	counter=$!
	load names-1000 1000 -n 1 -l "$seconds" || { stop $counter && return 1; }
	stop $counter
	record miss1k_qps "$(calc "$answers / $elapsed")"
	record conns "$(cat "$work/connections")"
	record lost "$(calc "1 - $answers / $sent")"
}

hits() {
	local cpu
	# Twice, in case queries are lost the first time.
	load names-hits 50 -n 2 || return 1
	cpu=$(ticks "${pids[@]}")
	load names-hits 100 -l "$seconds" || return 1
	record hit_qps "$(calc "$answers / $elapsed")"
	record hit_cpu "$(calc "($(ticks "${pids[@]}") - $cpu) / $HZ * 1e6 / $answers")"
	record lost "$(calc "1 - $answers / $sent")"
}

latency() {
	local metric value
	while read -r metric value; do record "$metric" "$value"; done < <(
		"$tool" latency --server 127.0.0.1:$PORT --rate 5000 --for "${seconds}s" --hits 1000 --miss-every 5 --prefix open
	)
	alive
}

# ---- measured once per peer ---------------------------------------------------------------------------------

measure_memory() {
	local before after queries
	peer=$1
	seq=$((seq + 1))
	start_peer "$peer" $PORT $NEAR || return 0
	queries=$(upstream_queries)
	sleep 1
	before=$(memory)
	if load names-fill 100 -n 1 -l $FILL_LIMIT; then
		sleep 2 # wait for a garbage collection
		after=$(memory)
		record entry_bytes "$(calc "($after - $before) / $answers")"
		record upstream_queries "$(calc "($(upstream_queries) - $queries) / $answers")"
		((answers * 100 >= entries * 99)) || note "$peer: only $answers of $entries entries in $FILL_LIMIT s"
		awk -v every=$((answers / SAMPLE + 1)) -v end="$answers" 'NR > end { exit } NR % every == 0' "$work/names-fill" >"$work/names-sample"
		queries=$(upstream_queries)
		load names-sample 20 -n 1 && record held "$(calc "1 - ($(upstream_queries) - $queries) / $sent")"
	else
		failed "$peer" "no answers, or exited, while its cache was filled"
	fi
	stop_peer
}

# measure_after_idle NAME…: runs all forwarders at the same time, each with both upstreams, because most of the time is a
# pause.
measure_after_idle() {
	local name kind upstream port=$IDLE_PORT targets=() all=() dirs=() metric value
	for name in "$@"; do
		for kind in closed kept; do
			upstream=$CLOSING
			[[ $kind == closed ]] || upstream=$KEEPING
			if start_peer "$name" $port $upstream; then
				all+=("${pids[@]}") dirs+=("$dir")
				targets+=("$name.$kind=127.0.0.1:$port")
			fi
			port=$((port + 1))
		done
	done
	seq=$((seq + 1))
	while read -r peer metric value; do
		record "$metric" "$value"
	done < <("$tool" idle --cycles 10 --pause 5s "${targets[@]}" | sed 's/\.\(closed\|kept\)\t/ \1_us /')
	pids=("${all[@]}")
	stop_peer
	rm -rf "${dirs[@]}"
}
