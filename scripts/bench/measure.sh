# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# How scripts/bench.sh runs one forwarder and measures it. Sourced by it, inside the namespaces.
#
# shellcheck disable=SC2154 # what bench.sh sets:
# NEAR, FAR, CLOSING (ports of the upstreams), PORT, IDLE_PORT, ZONE, FILL_LIMIT, SAMPLE, HZ; work, raw,
# tool, seconds, entries, seq.

# What the loads of a turn are about: the forwarder, its processes, its files.
peer='' pids=() dir=''

# ---- running one forwarder ----------------------------------------------------------------------------------

# begin NAME PORT UPSTREAM: starts a forwarder and waits for its first answer. Its processes are in `pids`, its files
# in `dir`.
begin() {
	local end
	pids=()
	dir=$(mktemp -d "$work/$1.XXXXXX")
	"peer_$1" "$2" "$3" "$dir"
	end=$((SECONDS + 20))
	until ready "$2"; do
		if ((SECONDS >= end)) || ! alive; then
			failed "$1" "it did not answer after its start"
			finish
			return 1
		fi
		sleep 0.1
	done
	# Those of several processes or sockets are not all ready with the first.
	sleep 0.5
}

ready() {
	dig +time=1 +tries=1 +noall +comments @127.0.0.1 -p "$1" "up-$RANDOM$RANDOM.$ZONE" 2>/dev/null | grep -q 'status: NOERROR'
}

alive() {
	local pid
	for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}

finish() {
	local pid
	for pid in "${pids[@]}"; do stop "$pid" 5; done
	pids=()
	rm -rf "$dir" /run/kresd
}

# failed NAME WHAT: not the end of the run. What the forwarder said goes to the terminal.
failed() {
	printf 'failed\t%s\t%s\n' "$1" "$2" >>"$raw"
	note "FAILED $1: $2"
	tail -n 5 "$dir/log" 2>/dev/null | sed 's/^/      /' >&2 || true
}

# ---- figures ------------------------------------------------------------------------------------------------

# put METRIC VALUE
put() { printf 'run\t%s\t%s\t%s\t%s\n' "$seq" "$peer" "$1" "$2" >>"$raw"; }
calc() { awk "BEGIN { print $1 }"; }

# ticks PID…: user and system time so far. The name in stat may hold blanks and brackets, so it is read from the
# last bracket on: state, ppid, …
ticks() {
	local pid stat fields total=0
	for pid in "$@"; do
		stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
		read -ra fields <<<"${stat##*) }"
		total=$((total + fields[11] + fields[12]))
	done
	echo $total
}

# memory: bytes in the forwarder's processes, what they share counted once.
memory() {
	local pid
	for pid in "${pids[@]}"; do cat "/proc/$pid/smaps_rollup"; done 2>/dev/null | awk '/^Pss:/ { kb += $2 } END { printf "%d\n", kb * 1024 }'
}

# upstream_ticks: what nsd has used so far. upstream_asked: how many queries it has had; to tell, it replaces its server
# process and closes every connection, so nobody's speed is measured around that.
upstream_ticks() {
	local all
	mapfile -t all < <(pgrep '^nsd')
	ticks "${all[@]}"
}
upstream_asked() { nsd-control -c "$work/near.conf" stats_noreset | sed -n 's/^num.queries=//p'; }

# load NAMES OUTSTANDING [ARG…]: dnsperf on the forwarder; sets sent, answers (NOERROR only) and took. Two seconds
# are enough to call a query lost here, where nothing is far away.
load() {
	local out
	out=$(timeout $((FILL_LIMIT + seconds + 20)) dnsperf -s 127.0.0.1 -p $PORT -c 8 -t 2 -q "$2" -d "$work/$1" "${@:3}" 2>/dev/null) || true
	read -r sent answers took < <(awk '
		/Queries sent:/ { sent = $3 }
		/Run time/ { took = $4 }
		/Response codes:/ && match($0, /NOERROR [0-9]+/) { answers = substr($0, RSTART + 8, RLENGTH - 8) }
		END { print sent + 0, answers + 0, (took > 0 ? took : 1) }' <<<"$out")
	((answers > 0)) && alive
}

# count_connections FILE: the most TLS connections to nsd that were open at once, by the client's end, until killed.
count_connections() {
	local now most=0
	while :; do
		now=$(ss -Htn state established "dport = :$NEAR" | wc -l)
		((now <= most)) || { most=$now && echo "$most" >"$1"; }
		sleep 0.25
	done
}

# ---- one forwarder's turn -----------------------------------------------------------------------------------

turn() {
	peer=$1
	seq=$((seq + 1))
	begin "$peer" $PORT $NEAR || return 0
	# Hits first: a cache that drops nothing by itself when it is full (dnsdist's) would take up no more of them.
	{ ! caches "$peer" || hits; } && latency && misses && misses_1000 ||
		failed "$peer" "it answered nothing, or ended, during a run"
	finish
	begin "$peer" $PORT $FAR || return 0
	if load names-far 1000 -n 1 -l "$seconds"; then
		put slow_qps "$(calc "$answers / $took")"
	else
		failed "$peer" "it answered nothing, or ended, before an upstream 20 ms away"
	fi
	finish
}

misses() {
	local cpu nsd
	cpu=$(ticks "${pids[@]}") nsd=$(upstream_ticks)
	load names-100 100 -n 1 -l "$seconds" || return 1
	put miss_qps "$(calc "$answers / $took")"
	put miss_cpu "$(calc "($(ticks "${pids[@]}") - $cpu) / $HZ * 1e6 / $answers")"
	put upstream_busy "$(calc "($(upstream_ticks) - $nsd) / $HZ / $took")"
	put lost "$(calc "1 - $answers / $sent")"
}

misses_1000() {
	local counter
	echo 0 >"$work/connections"
	count_connections "$work/connections" &
	counter=$!
	load names-1000 1000 -n 1 -l "$seconds" || { stop $counter && return 1; }
	stop $counter
	put miss1k_qps "$(calc "$answers / $took")"
	put conns "$(cat "$work/connections")"
	put lost "$(calc "1 - $answers / $sent")"
}

hits() {
	local cpu
	# Twice, for what was lost the first time.
	load names-hits 50 -n 2 || return 1
	cpu=$(ticks "${pids[@]}")
	load names-hits 100 -l "$seconds" || return 1
	put hit_qps "$(calc "$answers / $took")"
	put hit_cpu "$(calc "($(ticks "${pids[@]}") - $cpu) / $HZ * 1e6 / $answers")"
	put lost "$(calc "1 - $answers / $sent")"
}

latency() {
	local metric value
	while read -r metric value; do put "$metric" "$value"; done < <(
		"$tool" latency --server 127.0.0.1:$PORT --rate 5000 --for "${seconds}s" --hits 1000 --miss-every 5 --prefix open
	)
	alive
}

# ---- once for each ------------------------------------------------------------------------------------------

weigh() {
	local before after asked
	peer=$1
	seq=$((seq + 1))
	begin "$peer" $PORT $NEAR || return 0
	asked=$(upstream_asked)
	sleep 1
	before=$(memory)
	if load names-fill 100 -n 1 -l $FILL_LIMIT; then
		sleep 2 # a collector may still be at it
		after=$(memory)
		put entry_bytes "$(calc "($after - $before) / $answers")"
		put asks "$(calc "($(upstream_asked) - $asked) / $answers")"
		((answers * 100 >= entries * 99)) || note "$peer: $answers entries in $FILL_LIMIT s, not $entries"
		awk -v every=$((answers / SAMPLE + 1)) -v end="$answers" 'NR > end { exit } NR % every == 0' "$work/names-fill" >"$work/names-sample"
		asked=$(upstream_asked)
		load names-sample 20 -n 1 && put held "$(calc "1 - ($(upstream_asked) - $asked) / $sent")"
	else
		failed "$peer" "it answered nothing, or ended, while it was filled"
	fi
	finish
}

# after_idle: all of them at once, twice each: most of this is silence.
after_idle() {
	local name kind upstream port=$IDLE_PORT targets=() all=() dirs=() metric value
	for name in "$@"; do
		for kind in closed kept; do
			upstream=$CLOSING
			[[ $kind == closed ]] || upstream=$NEAR
			if begin "$name" $port $upstream; then
				all+=("${pids[@]}") dirs+=("$dir")
				targets+=("$name.$kind=127.0.0.1:$port")
			fi
			port=$((port + 1))
		done
	done
	seq=$((seq + 1))
	while read -r peer metric value; do
		put "$metric" "$value"
	done < <("$tool" idle --cycles 10 --pause 5s "${targets[@]}" | sed 's/\.\(closed\|kept\)\t/ \1_us /')
	pids=("${all[@]}")
	finish
	rm -rf "${dirs[@]}"
}
