#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compares the replies of DNS over QUIC servers that others wrote with plain DNS, while connections are dropped, the server
# is killed and restarted, and the network changes: TestCompare in forwarder/upstream. Needs root (namespaces without
# external connectivity) and, for the preparation, the package mirror and the Go module proxy. Not part of CI.
#
#   scripts/upstream/doq.sh [QUERIES] [SERVER…]   servers: coredns, dnsproxy (both by default), knotd
#
# knotd 3.5.8 fails: it answers nothing more on a connection after a STREAM frame that contains FIN but no data. RFC 9000
# §19.8 permits such a frame, and quic-go sends one when it is sending something else at the moment at which a query is
# written.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. scripts/lib.sh

# Servers written in Go: name, module, version; as in scripts/bench/peers.sh.
readonly GO_SERVERS=(
	"coredns github.com/coredns/coredns v1.15.0"
	"dnsproxy github.com/AdguardTeam/dnsproxy v0.81.2"
)
readonly NAME=dot.example PLAIN=5300

# fetch_knot: unpacks Knot DNS of Debian's testing suite in $work/root; the one of Debian 12 has no DNS over QUIC. It runs
# with its own dynamic linker, so that nothing is installed. Mirrors may have an old copy of the suite, hence
# Check-Valid-Until.
fetch_knot() {
	install_missing "mmdebstrap mmdebstrap"
	say "Knot DNS of Debian testing"
	mmdebstrap --quiet --mode=root --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' --include=knot \
		testing "$work/root" http://deb.debian.org/debian >"$work/mmdebstrap.log" 2>&1 ||
		{ cat "$work/mmdebstrap.log" >&2 && die "mmdebstrap testing failed"; }
}

# build_servers: builds the servers written in Go in bin/peers, like scripts/bench.sh.
build_servers() {
	local line name module version
	for line in "${GO_SERVERS[@]}"; do
		read -r name module version <<<"$line"
		! go version -m "bin/peers/$name" 2>/dev/null | grep -qE "[[:space:]]${module}[[:space:]]+${version}[[:space:]]" || continue
		say "go build $module $version"
		mkdir -p "$work/build-$name" bin/peers
		printf 'module peer\n\ngo %s\n\nrequire %s %s\n' "$(go_required)" "$module" "$version" >"$work/build-$name/go.mod"
		(cd "$work/build-$name" && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -o "$OLDPWD/bin/peers/$name" "$module") >"$work/build.log" 2>&1 ||
			{ cat "$work/build.log" >&2 && die "go build $module failed"; }
	done
}

# write_configurations: one zone, served over plain DNS by a knotd that signs it, the backend. The compared knotd transfers
# it, and the others forward to it. Each NAME.sh runs a server in the foreground.
write_configurations() {
	local linker i
	{
		echo "\$ORIGIN zone.example."
		echo "\$TTL 3600"
		echo "@ SOA ns hostmaster 1 7200 900 1209600 300"
		echo "@ NS ns"
		echo "ns A 192.0.2.53"
		echo "www A 192.0.2.80"
		echo "www AAAA 2001:db8::80"
		echo "alias CNAME www"
		echo "deep.alias CNAME alias"
		echo "*.wild A 192.0.2.81"
		for i in {1..40}; do echo "many A 192.0.2.$((i + 100))"; done
		for i in {1..20}; do echo "large TXT \"$(printf "%0200d" "$i")\""; done
		for i in {1..10}; do echo "mail MX $i mx$i"; done
	} >"$work/zone"
	linker=$(find "$work/root/" -name 'ld-linux-*.so.*' -type f | head -n1)
	cat >"$work/backend.conf" <<-END
		server:
		    rundir: "$work/backend"
		    listen: [ 127.0.0.1@$PLAIN ]
		database:
		    storage: "$work/backend"
		acl:
		  - id: local
		    address: 127.0.0.1
		    action: transfer
		zone:
		  - domain: zone.example
		    file: "$work/zone"
		    dnssec-signing: on
		    acl: local
	END
	cat >"$work/knotd.conf" <<-END
		server:
		    rundir: "$work/knotd"
		    listen-quic: [ 127.0.0.1@8853 ]
		    cert-file: "$work/cert.pem"
		    key-file: "$work/key.pem"
		database:
		    storage: "$work/knotd"
		remote:
		  - id: backend
		    address: 127.0.0.1@$PLAIN
		zone:
		  - domain: zone.example
		    storage: "$work/knotd"
		    master: backend
	END
	mkdir -p "$work/backend" "$work/knotd"
	for i in backend knotd; do
		echo "exec \"$linker\" --library-path \"$(dirname "$(find "$work/root/" -name 'libknot.so.*' | head -n1)")\" \"$work/root/usr/sbin/knotd\" -c \"$work/$i.conf\"" >"$work/$i.sh"
	done
	cat >"$work/Corefile" <<-END
		quic://.:8854 {
		    bind 127.0.0.1
		    tls $work/cert.pem $work/key.pem
		    forward . 127.0.0.1:$PLAIN {
		        force_tcp
		        max_fails 0
		    }
		}
	END
	echo "exec bin/peers/coredns -conf $work/Corefile" >"$work/coredns.sh"
	echo "exec bin/peers/dnsproxy --listen=127.0.0.1 --port=0 --quic-port=8855 --tls-crt=$work/cert.pem --tls-key=$work/key.pem --ratelimit=0 --upstream=127.0.0.1:$PLAIN" >"$work/dnsproxy.sh"
	# restart.sh NAME: kills a server, so that it closes no connection, and starts it again.
	cat >"$work/restart.sh" <<-END
		[ ! -e "$work/\$1.pid" ] || { kill -KILL "\$(cat "$work/\$1.pid")" 2>/dev/null; sleep 0.2; }
		rm -f "$work/\$1/knot.pid" # of the process that was killed
		sh "$work/\$1.sh" >>"$work/\$1.log" 2>&1 </dev/null &
		echo \$! >"$work/\$1.pid"
	END
}

port() { case $1 in knotd) echo 8853 ;; coredns) echo 8854 ;; dnsproxy) echo 8855 ;; esac; }
serves() { kdig +short +tcp +time=1 +retry=0 -p $PLAIN @127.0.0.1 www.zone.example | grep -q .; }
listens() { ss -Huln "sport = :$1" | grep -q .; }
stop_server() { [[ ! -e $work/$1.pid ]] || kill -KILL "$(cat "$work/$1.pid")" 2>/dev/null || true; }

# compare QUERIES SERVER…: runs in the sandbox.
compare() {
	local queries=$1 server status=0
	shift
	for server in backend "$@"; do defer stop_server "$server"; done
	sh "$work/restart.sh" backend
	wait_for 20 "the backend" serves
	for server; do
		sh "$work/restart.sh" "$server"
		wait_for 20 "$server" listens "$(port "$server")"
		sleep 2 # knotd transfers the zone
		say "$server"
		SOTTO_COMPARE="quic://$NAME:$(port "$server")#127.0.0.1" SOTTO_COMPARE_DIRECT=127.0.0.1:$PLAIN SOTTO_COMPARE_CA="$work/ca.pem" \
			SOTTO_COMPARE_QUERIES=$queries SOTTO_COMPARE_RESTART="sh $work/restart.sh $server" \
			"$work/upstream.test" -test.run '^TestCompare$' -test.v || status=1
	done
	return $status
}

if [[ ${1:-} == inside ]]; then
	work=$2
	shift 2
	compare "$@"
	exit
fi
need_root
queries=${1:-30000}
shift || true
[[ $# -gt 0 ]] || set -- coredns dnsproxy
work=$(mktemp -d /tmp/sotto-doq.XXXXXX)
defer rm -rf "$work"
ensure_go
install_missing "kdig knot-dnsutils" "ss iproute2"
fetch_knot
build_servers
go run ./cmd/sotto-bench cert -dir "$work" -name $NAME
go test -c -o "$work/upstream.test" ./forwarder/upstream
write_configurations
sandbox bash "$0" inside "$work" "$queries" "$@"
