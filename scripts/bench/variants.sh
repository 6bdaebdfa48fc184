# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Measures misses of forwarders in other configurations: with DNSSEC validation, and with upstreams over HTTPS and QUIC.
# Sourced by scripts/bench.sh after measure.sh; runs in the sandbox.
#
# shellcheck disable=SC2034 # used by peers.sh
# shellcheck disable=SC2154 # set by bench.sh: NEAR, PORT, AUTH, CA, NEWEST, BINS, work, raw, seconds

readonly SIGNED=8856 DOH=8857 DOQ=8858 # ports of the upstreams

# sign_zone: signs the zone of the upstream, and sets `anchor` to the file with its key.
sign_zone() {
	local dir=$work/signing key
	mkdir "$dir"
	printf '$TTL 3600\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1\n' >"$dir/zone"
	key=$(dnssec-keygen -q -K "$dir" -a ECDSAP256SHA256 -f KSK .)
	dnssec-keygen -q -K "$dir" -a ECDSAP256SHA256 . >/dev/null
	dnssec-signzone -q -S -K "$dir" -d "$dir" -o . -f "$work/signed.zone" "$dir/zone" >/dev/null
	anchor=$work/anchor.key
	grep -v '^;' "$dir/$key.key" >"$anchor"
}

# variant SECTION ROW PEER UPSTREAM: measures misses of a forwarder.
variant() {
	local cpu
	peer=$3
	start_peer "$peer" $PORT "$4" || return 0
	cpu=$(ticks "${pids[@]}")
	if load names-100 100 -n 1 -l "$seconds"; then
		printf 'variant\t%s\t%s\tmiss_qps\t%s\n' "$1" "$2" "$(calc "$answers / $elapsed")" >>"$raw"
		printf 'variant\t%s\t%s\tmiss_cpu\t%s\n' "$1" "$2" "$(calc "($(ticks "${pids[@]}") - $cpu) / $HZ * 1e6 / $answers")" >>"$raw"
	else
		failed "$peer" "no answers, or exited, during a run ($1)"
	fi
	stop_peer
}

# measure_validation NAME…: each forwarder that can validate, without and with it.
measure_validation() {
	local name
	for name in sotto "$@"; do
		case $name in
		sotto | unbound* | kresd*)
			variant "DNSSEC validation" "$name" "$name" $SIGNED
			validate=$anchor
			variant "DNSSEC validation" "$name, validating" "$name" $SIGNED
			validate=
			;;
		esac
	done
}

# measure_transports NAME…: the forwarders that can ask over HTTPS or QUIC.
measure_transports() {
	local name
	for name in sotto "$@"; do
		if [[ -n $doh_upstream && $name =~ ^(sotto|dnsdist-new|dnsproxy|routedns)$ ]]; then
			transport=doh
			variant "DNS over HTTPS" "$name" "$name" $DOH
		fi
		if [[ -n $doq_upstream && $name =~ ^(sotto|dnsproxy|routedns)$ ]]; then
			transport=doq
			variant "DNS over QUIC" "$name" "$name" $DOQ
		fi
		transport=
	done
}

# start_variant_upstreams: nsd with the signed zone; dnsdist of Debian testing over HTTPS; dnsproxy over QUIC. The last two
# ask the nsd of the other measurements, and are left out where they are not installed.
doh_upstream='' doq_upstream=''
start_variant_upstreams() {
	sign_zone
	start_nsd signed $SIGNED 600 "$work/signed.zone"
	wait_for 20 "the upstream at $SIGNED" listening $SIGNED
	if [[ -d $NEWEST ]]; then
		mkdir "$work/doh"
		cat >"$work/doh/dnsdist.conf" <<-END
			setSecurityPollSuffix('')
			setACL({'127.0.0.0/8'})
			addDOHLocal('127.0.0.1:$DOH', '$work/cert.pem', '$work/key.pem', {'/dns-query'}, {reusePort=true})
			newServer({address='127.0.0.1:$NEAR', checkName='up.bench.example.', checkTimeout=5000, maxCheckFailures=10})
		END
		newest run_doh "$work/doh"
		doh_upstream=1
		wait_for 20 "the upstream at $DOH (see $work/doh/log)" listening $DOH
	fi
	if [[ -x $BINS/dnsproxy ]]; then
		mkdir "$work/doq"
		"$BINS/dnsproxy" --listen=127.0.0.1 --port=0 --quic-port=$DOQ --tls-crt="$work/cert.pem" --tls-key="$work/key.pem" \
			--upstream="127.0.0.1:$NEAR" >"$work/doq/log" 2>&1 &
		defer stop $!
		doq_upstream=1
		wait_for 20 "the upstream at $DOQ (see $work/doq/log)" listening_udp $DOQ
	fi
}
run_doh() {
	"${in_root[@]}" dnsdist --supervised --disable-syslog -C "$1/dnsdist.conf" >"$1/log" 2>&1 &
	defer stop $!
}
listening_udp() { [[ -n $(ss -Huln "sport = :$1") ]]; }
