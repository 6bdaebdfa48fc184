# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# The forwarders that scripts/bench.sh compares and their configurations: DNS over TLS to one upstream whose name is
# verified, a cache for all entries, as many threads, sockets or processes as there are cores, no logging, no DNSSEC
# validation. All settings that a project's documentation recommends for performance are set. A missing setting that
# would make a peer faster is a bug in this file.
#
# Sourced. A peer is two functions:
#
#   peer_NAME PORT UPSTREAM DIR   starts it on 127.0.0.1:PORT with upstream 127.0.0.1:UPSTREAM and its files in DIR, and
#                                 adds its processes to the array `pids`
#   version_NAME                  prints its version
#
# `validate` is the file of the trust anchor with which a peer validates, or empty; `transport` is doh, doq, or empty for DNS
# over TLS.
#
# bench.sh sets: CORES, CA (CA certificate), AUTH (name of the upstream), CAPACITY (entries), BINS (directory of the peers
# that it built), NEWEST (root directory of the newest versions).

# Peers with a Debian package: name, "PROBE PACKAGE" for install_missing.
# shellcheck disable=SC2034 # used by bench.sh
readonly DEBIAN_PEERS=(
	"unbound /usr/sbin/unbound unbound"
	"dnsdist /usr/bin/dnsdist dnsdist"
	"kresd /usr/sbin/kresd knot-resolver"
	"stubby /usr/bin/stubby stubby"
)

# The same forwarders from Debian's testing suite, whose newer versions are in a root directory of their own (NEWEST).
readonly NEWEST_PEERS=(unbound-new dnsdist-new kresd-new)
readonly NEWEST_PACKAGES="unbound dnsdist knot-resolver6"

# Peers written in Go: name, module, version, package. The versions are the newest that this module's Go can build. They
# are built in temporary modules and do not affect go.mod of this tree.
readonly GO_PEERS=(
	"coredns github.com/coredns/coredns v1.15.0 ."
	"dnsproxy github.com/AdguardTeam/dnsproxy v0.81.2 ."
	"routedns github.com/folbricht/routedns v0.1.51 ./cmd/routedns"
	"blocky github.com/0xERR0R/blocky v0.26.2 ."
)

validate='' transport=''

# Size of a cached answer, for caches that are configured in bytes: large enough that nothing is evicted.
readonly ENTRY_BYTES=1024

# has_cache NAME: false for stubby, for which hits and memory are not measured.
has_cache() { [[ $1 != stubby ]]; }

mebibytes() { echo $((CAPACITY * ENTRY_BYTES / 1048576 + 16)); }

# power_of_two N: prints the smallest power of two that is at least N, for slabs and shards.
power_of_two() {
	local n=1
	while ((n < $1)); do n=$((n * 2)); done
	echo $n
}

# newest COMMAND…: runs COMMAND, a function of this file, with the programs of NEWEST.
in_root=()
newest() {
	local in_root=(chroot "$NEWEST")
	"$@"
}

# start DIR COMMAND…: runs COMMAND in the background, with its output in DIR/log.
start() {
	local dir=$1
	shift
	"$@" >>"$dir/log" 2>&1 </dev/null &
	pids+=($!)
}

# ---- Sotto -------------------------------------------------------------------------------------------------

version_sotto() { bin/sotto version | head -n1 | sed 's/^sotto //'; }
peer_sotto() {
	local url=127.0.0.1:$2#$AUTH options=()
	case $transport in
	doh) url=https://127.0.0.1:$2/dns-query#$AUTH ;;
	doq) url=quic://127.0.0.1:$2#$AUTH ;;
	esac
	[[ -z $validate ]] || options=(--dnssec validate --trust-anchor-file "$validate")
	start "$3" bin/sotto serve -l "127.0.0.1:$1" -u "$url" --ca-file "$CA" --cache-mib "$(mebibytes)" "${options[@]}"
}

# ---- unbound -----------------------------------------------------------------------------------------------

# num-threads, slabs, so-reuseport, outgoing-range and buffers as in its "performance tuning" page. By default a stream is
# closed after 200 queries; the maximum of max-reuse-tcp-queries saves hundreds of handshakes per second.
version_unbound() { "${in_root[@]}" unbound -V | sed -n 's/^Version //p'; }
peer_unbound() {
	local slabs modules=iterator anchors=
	slabs=$(power_of_two $((2 * CORES)))
	[[ -z $validate ]] || modules="validator iterator" anchors="trust-anchor-file: \"$validate\""
	cat >"$3/unbound.conf" <<-END
		server:
		    interface: 127.0.0.1
		    port: $1
		    access-control: 127.0.0.0/8 allow
		    do-not-query-localhost: no
		    do-daemonize: no
		    username: ""
		    chroot: ""
		    directory: "$3"
		    pidfile: ""
		    use-syslog: no
		    verbosity: 0
		    module-config: "$modules"
		    $anchors
		    num-threads: $CORES
		    so-reuseport: yes
		    so-rcvbuf: 4m
		    so-sndbuf: 4m
		    msg-cache-slabs: $slabs
		    rrset-cache-slabs: $slabs
		    infra-cache-slabs: $slabs
		    msg-cache-size: $(mebibytes)m
		    rrset-cache-size: $(mebibytes)m
		    outgoing-range: 8192
		    num-queries-per-thread: 4096
		    outgoing-num-tcp: 100
		    incoming-num-tcp: 100
		    max-reuse-tcp-queries: 65535
		    tls-cert-bundle: "$CA"
		remote-control:
		    control-enable: no
		forward-zone:
		    name: "."
		    forward-tls-upstream: yes
		    forward-addr: 127.0.0.1@$2#$AUTH
	END
	start "$3" "${in_root[@]}" unbound -d -c "$3/unbound.conf"
}
version_unbound-new() { newest version_unbound; }
peer_unbound-new() { newest peer_unbound "$@"; }

# ---- dnsdist -----------------------------------------------------------------------------------------------

# One listener per core with reusePort, as in its "performance tuning" page; maxInFlight enables pipelining, which is off by
# default.
version_dnsdist() { "${in_root[@]}" dnsdist --version | sed -n '1s/^dnsdist \([^ ]*\).*/\1/p'; }
peer_dnsdist() {
	local i
	{
		echo "setLocal('127.0.0.1:$1', {reusePort=true})"
		for ((i = 1; i < CORES; i++)); do echo "addLocal('127.0.0.1:$1', {reusePort=true})"; done
		cat <<-END
			setACL({'127.0.0.0/8'})
			setSecurityPollSuffix('')
			setMaxTCPClientThreads($CORES)
			setMaxTCPQueuedConnections(10000)
			setMaxCachedTCPConnectionsPerDownstream(100)
			setTCPInternalPipeBufferSize(1048576)
			setMaxUDPOutstanding(65535)
			newServer({address='127.0.0.1:$2', tls='openssl', subjectName='$AUTH', caStore='$CA',$([[ $transport != doh ]] || echo " dohPath='/dns-query',")
			    validateCertificates=true, maxInFlight=10000, checkName='up.bench.example.',
			    checkTimeout=5000, maxCheckFailures=10})
			getPool(''):setCache(newPacketCache($CAPACITY, {maxTTL=86400, numberOfShards=$((4 * CORES))}))
		END
	} >"$3/dnsdist.conf"
	start "$3" "${in_root[@]}" dnsdist --supervised --disable-syslog -C "$3/dnsdist.conf"
}
version_dnsdist-new() { newest version_dnsdist; }
peer_dnsdist-new() { newest peer_dnsdist "$@"; }

# ---- Knot Resolver -----------------------------------------------------------------------------------------

# One process per core on the same port, with a shared cache in a tmpfs, as its documentation recommends. With the default
# net.tcp_pipeline of 100 it answers some of 1,000 outstanding queries with SERVFAIL.
version_kresd() { "${in_root[@]}" kresd --version | sed -n 's/.*version //p'; }
peer_kresd() {
	local i
	mkdir -p "/run/kresd/$1"
	cat >"$3/kresd.conf" <<-END
		log_level('crit')
		modules.unload('ta_update')
		modules.unload('ta_signal_query')
		modules.unload('priming')
		modules.unload('detect_time_skew')
		modules.unload('detect_time_jump')
		trust_anchors.remove('.')
		${validate:+trust_anchors.add_file('$validate', true)}
		net.listen('127.0.0.1', $1, { kind = 'dns' })
		net.tcp_pipeline(1000)
		cache.open($(mebibytes) * MB, 'lmdb:///run/kresd/$1')
		policy.add(policy.all(policy.TLS_FORWARD({ { '127.0.0.1@$2', hostname = '$AUTH', ca_file = '$CA' } })))
	END
	for ((i = 0; i < CORES; i++)); do start "$3" "${in_root[@]}" kresd -n -c "$3/kresd.conf" "$3"; done
}
version_kresd-new() { newest version_kresd; }
peer_kresd-new() { newest peer_kresd "$@"; }

# ---- stubby ------------------------------------------------------------------------------------------------

version_stubby() { stubby -V | sed 's/.* //'; }
peer_stubby() {
	cat >"$3/stubby.yml" <<-END
		resolution_type: GETDNS_RESOLUTION_STUB
		dns_transport_list: [GETDNS_TRANSPORT_TLS]
		tls_authentication: GETDNS_AUTHENTICATION_REQUIRED
		tls_ca_file: "$CA"
		tls_query_padding_blocksize: 128
		edns_client_subnet_private: 1
		idle_timeout: 60000
		round_robin_upstreams: 0
		listen_addresses: [127.0.0.1@$1]
		upstream_recursive_servers:
		  - address_data: 127.0.0.1
		    tls_port: $2
		    tls_auth_name: "$AUTH"
	END
	start "$3" stubby -C "$3/stubby.yml"
}

# ---- CoreDNS -----------------------------------------------------------------------------------------------

# multisocket is recommended for machines with more than one core; max_idle_conns is unlimited by default.
version_coredns() { "$BINS/coredns" -version | sed -n '1s/^CoreDNS-//p'; }
peer_coredns() {
	cat >"$3/Corefile" <<-END
		.:$1 {
		    bind 127.0.0.1
		    multisocket $CORES
		    cache {
		        success $CAPACITY 3600
		        denial 10000
		    }
		    forward . tls://127.0.0.1:$2 {
		        tls $CA
		        tls_servername $AUTH
		        expire 60s
		    }
		}
	END
	start "$3" "$BINS/coredns" -quiet -conf "$3/Corefile"
}

# ---- dnsproxy ----------------------------------------------------------------------------------------------

# A DNS stamp (0x03, properties, address, no hashes, name) specifies both address and name, so that no bootstrap resolver is
# needed.
version_dnsproxy() { go_peer_version dnsproxy; }
peer_dnsproxy() {
	local stamp kind='\x03'
	case $transport in
	doh) kind='\x02' ;;
	doq) kind='\x04' ;;
	esac
	stamp=$({
		# shellcheck disable=SC2059 # the format contains the byte
		printf "$kind\x00\x00\x00\x00\x00\x00\x00\x00"
		length_prefixed "127.0.0.1:$2"
		printf '\x00'
		length_prefixed "$AUTH:$2"
		[[ $transport != doh ]] || length_prefixed /dns-query
	} | base64 -w0 | tr '+/' '-_' | tr -d =)
	start "$3" env SSL_CERT_FILE="$CA" "$BINS/dnsproxy" --listen=127.0.0.1 --port="$1" --upstream="sdns://$stamp" \
		--cache --cache-size=$((CAPACITY * ENTRY_BYTES)) --output="$3/log"
}

# length_prefixed TEXT: prints the length of TEXT as one byte, then TEXT.
length_prefixed() {
	# shellcheck disable=SC2059 # the format contains the byte
	printf "\\x$(printf %02x "${#1}")"
	printf %s "$1"
}

# ---- routedns ----------------------------------------------------------------------------------------------

version_routedns() { go_peer_version routedns; }
peer_routedns() {
	local address=$AUTH:$2
	[[ $transport != doh ]] || address=https://$AUTH:$2/dns-query
	cat >"$3/routedns.toml" <<-END
		[resolvers.upstream]
		address = "$address"
		bootstrap-address = "127.0.0.1"
		protocol = "${transport:-dot}"
		ca = "$CA"

		[groups.cached]
		type = "cache"
		resolvers = ["upstream"]
		backend = { type = "memory", size = $CAPACITY }

		[listeners.udp]
		address = "127.0.0.1:$1"
		protocol = "udp"
		resolver = "cached"
	END
	start "$3" "$BINS/routedns" --log-level=1 "$3/routedns.toml"
}

# ---- blocky ------------------------------------------------------------------------------------------------

version_blocky() { go_peer_version blocky; }
peer_blocky() {
	cat >"$3/blocky.yml" <<-END
		upstreams:
		  init:
		    strategy: fast
		  groups:
		    default: ["tcp-tls:127.0.0.1:$2#$AUTH"]
		connectIPVersion: v4
		caching:
		  maxItemsCount: $CAPACITY
		  prefetching: false
		queryLog:
		  type: none
		ports:
		  dns: 127.0.0.1:$1
		log:
		  level: error
	END
	start "$3" env SSL_CERT_FILE="$CA" "$BINS/blocky" --config "$3/blocky.yml" serve
}

# go_peer_version NAME: prints the version in GO_PEERS.
go_peer_version() {
	local line
	for line in "${GO_PEERS[@]}"; do
		# shellcheck disable=SC2086 # fields
		set -- "$1" $line
		[[ $1 != "$2" ]] || echo "$4"
	done
}
