#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto in containers with a real engine: builds the Dockerfile, runs the services of compose.yaml, queries port
# 11222 over UDP and TCP, and seals one container from another. The engine runs in isolated namespaces and does not
# interfere with others on this machine. Base images are built here, because none can be pulled.
#
#   sudo ./scripts/docker-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

packages=(
	"dockerd docker.io"
	"ip iproute2"
	"iptables iptables"
	"busybox busybox-static"
	"dig bind9-dnsutils"
	"tcpdump tcpdump"
	"python3 python3" # serves the module cache to docker build
)

readonly BRIDGE=172.30.99.1 LAN=lan LAN_HOST=192.0.2.1 LAN_DNS=192.0.2.53
readonly UPSTREAM=$LAN_DNS#dns.example
export COMPOSE_PROJECT_NAME=sotto-test

# ---- images ----------------------------------------------------------------------------------------------

# copy_program ROOT PROGRAM…: copies programs with their shared libraries.
copy_program() {
	local root=$1 program file
	shift
	for program in "$@"; do
		program=$(type -P "$program")
		while read -r file; do
			install -D "$(readlink -f "$file")" "$root$file"
		done < <(echo "$program" && ldd "$program" 2>/dev/null | grep -o '/[^ ]*')
	done
}

# import_golang: imports an image with busybox and this machine's Go, under the name of the Dockerfile's base image.
import_golang() {
	local name root=$work/golang
	name=$(sed -n 's/^FROM \(golang:[^ ]*\) AS build$/\1/p' Dockerfile)
	[[ -n $name ]] || die "no golang base image in the Dockerfile"
	busybox_root "$root"
	install -D /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
	tar -C "$root" -cf "$root.tar" .
	tar -C "$(go env GOROOT)" --transform 's,^,usr/local/go/,' -rf "$root.tar" bin go.env lib pkg src VERSION
	docker import -c 'ENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local' "$root.tar" "$name" >/dev/null
	rm -f "$root.tar"
	note "$name from this machine's Go and busybox"
}

import_client() {
	local root=$work/client
	busybox_root "$root"
	copy_program "$root" dig
	tar -C "$root" -c . | docker import -c 'ENV PATH=/bin:/usr/bin' - client >/dev/null
	note "client, with dig and busybox"
}

busybox_root() {
	mkdir -p "$1/bin" "$1/etc" "$1/tmp" "$1/root"
	chmod 1777 "$1/tmp"
	echo 'root:x:0:0::/root:/bin/sh' >"$1/etc/passwd"
	copy_program "$1" busybox
	[[ -e $1/bin/busybox ]] || mv "$1$(type -P busybox)" "$1/bin/busybox"
	chroot "$1" /bin/busybox --install -s /bin
}

# ---- engine and network ----------------------------------------------------------------------------------

# runtime: prints the name of the OCI runtime. If this machine itself lacks capabilities (a container, a hardened VM), runc
# refuses to start privileged containers; a wrapper then removes these capabilities from the request.
runtime() {
	local missing
	missing=$(comm -23 <(setpriv --list-caps | sort) <(setpriv --dump | sed -n 's/^Capability bounding set: //p' | tr , '\n' | sort))
	[[ -n $missing ]] || { echo runc && return; }
	cat >"$work/runc" <<-END
		#!/usr/bin/python3
		import json, os, sys
		missing = {"CAP_" + name.upper() for name in """$missing""".split()}
		if "--bundle" in sys.argv:
		    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
		    with open(path) as f:
		        config = json.load(f)
		    held = config["process"].get("capabilities") or {}
		    for kind in held:
		        held[kind] = [cap for cap in held[kind] or [] if cap not in missing]
		    with open(path, "w") as f:
		        json.dump(config, f)
		os.execvp("runc", ["runc"] + sys.argv[1:])
	END
	chmod 755 "$work/runc"
	echo bounded
	note "this machine lacks $(xargs <<<"$missing"); privileged containers run without" >&2
}

start_engine() {
	local runtime=()
	[[ $(runtime) == runc ]] || runtime=(--add-runtime "bounded=$work/runc" --default-runtime bounded)
	# cgroupfs and a separate parent cgroup, so that leftovers of the engine can be found.
	dockerd --data-root "$work/data" --exec-root /run/docker --pidfile /run/dockerd.pid --host unix:///run/docker.sock \
		--bip $BRIDGE/24 --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup" \
		--default-cgroupns-mode host "${runtime[@]}" >"$work/dockerd.log" 2>&1 &
	engine=$!
	export DOCKER_HOST=unix:///run/docker.sock
	wait_for 60 "dockerd (see $work/dockerd.log)" docker version
	note "$(docker version --format 'client {{.Client.Version}}, engine {{.Server.Version}}'), $(compose version --short)"
}

# make_lan: creates a LAN behind the host's only uplink, with a plain nameserver and a DNS over TLS upstream.
make_lan() {
	ip netns add $LAN
	ip link add uplink type veth peer name eth0 netns $LAN
	ip address add $LAN_HOST/24 dev uplink
	ip link set uplink up
	ip -n $LAN address add $LAN_DNS/24 dev eth0
	ip -n $LAN link set eth0 up
	ip -n $LAN link set lo up
	nsenter --net=/run/netns/$LAN bin/sotto demo upstream --listen $LAN_DNS:853 --ca-out "$work/ca.pem" --name dns.example \
		>"$work/upstream.log" 2>&1 &
	wait_for 20 "the upstream" test -s "$work/ca.pem"
	nsenter --net=/run/netns/$LAN bin/sotto serve --listen $LAN_DNS:53 --upstream $UPSTREAM --ca-file "$work/ca.pem" \
		>"$work/nameserver.log" 2>&1 &
	wait_for 20 "the LAN's nameserver" dig +time=1 +tries=1 @$LAN_DNS up.example
}

# compose ARG…: Debian 12 has Compose 1, which does not support `cgroup: host`; this engine uses it for all containers.
compose() {
	if docker compose version >/dev/null 2>&1; then
		docker compose "$@"
	elif [[ $(docker-compose version --short) == 1.* ]]; then
		grep -v '^ *cgroup: host$' compose.yaml | docker-compose --project-directory . -f - "$@"
	else
		docker-compose "$@"
	fi
}

# ---- tests -----------------------------------------------------------------------------------------------

# expect_answer WHAT COMMAND…: runs a DNS client and prints answer and server; fails if there is no answer.
expect_answer() {
	local what=$1 out
	shift
	out=$("$@" 2>&1) || { printf '%s\n' "$out" >&2 && die "$what: no answer"; }
	grep -q 'status: NOERROR' <<<"$out" || { printf '%s\n' "$out" >&2 && die "$what: no answer"; }
	note "$what: $(grep -E '^[^;].*\s(A|TXT)\s' <<<"$out" | head -n1 | xargs), $(grep -o 'SERVER: .*' <<<"$out")"
}

query_11222() {
	wait_for 30 "an answer at 11222" dig +time=1 +tries=1 -p 11222 @127.0.0.1 ready.example
	expect_answer "UDP 11222" dig +notcp -p 11222 @127.0.0.1 "$1-udp.example" A
	expect_answer "TCP 11222" dig +tcp -p 11222 @127.0.0.1 "$1-tcp.example" A
}

test_build() {
	local proxy
	say "docker build, from the real Dockerfile"
	python3 -m http.server --bind $BRIDGE --directory "$(go env GOMODCACHE)/cache/download" 8080 >/dev/null 2>&1 &
	proxy=$!
	docker build --quiet -t sotto --build-arg GOPROXY=http://$BRIDGE:8080 --build-arg GOSUMDB=off \
		--build-arg VERSION=docker-test . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2 && die "docker build failed"; }
	stop $proxy
	note "$(docker run --rm sotto version), $(docker image inspect -f '{{.Size}}' sotto | numfmt --to=iec) bytes"
	! docker run --rm --entrypoint /bin/sh sotto -c true 2>/dev/null || die "the image contains a shell"
}

test_forward() {
	say "compose.yaml: default service"
	docker volume create --label com.docker.compose.project=sotto-test --label com.docker.compose.volume=ca sotto-test_ca >/dev/null
	cp "$work/ca.pem" "$work/data/volumes/sotto-test_ca/_data/ca.pem"
	SOTTO_FLAGS="--upstream $UPSTREAM --ca-file /ca/ca.pem" compose up -d --no-build sotto >"$work/compose.log" 2>&1 ||
		{ cat "$work/compose.log" >&2 && die "compose up failed"; }
	query_11222 forward
	compose down >/dev/null 2>&1
}

test_offline() {
	say "compose.yaml: service offline, with its own upstream, without LAN and internet"
	compose up -d --no-build offline >"$work/compose.log" 2>&1 || { cat "$work/compose.log" >&2 && die "compose up failed"; }
	query_11222 offline
	compose --profile offline down --volumes >/dev/null 2>&1
}

# count_packets FILTER: prints the number of captured packets that match.
count_packets() { tcpdump -nr "$work/wire.pcap" "$1" 2>/dev/null | wc -l; }
saw() { (($(count_packets "$1") > 0)); }
start_capture() {
	rm -f "$work/wire.pcap"
	tcpdump -ni uplink -U --immediate-mode -w "$work/wire.pcap" 2>"$work/tcpdump.log" &
	tcpdump=$!
	wait_for 10 "tcpdump" grep -q 'listening on' "$work/tcpdump.log"
}

# query_from_client LABEL: runs the same DNS clients in the container each time.
query_from_client() {
	expect_answer "$1, dig UDP" docker exec client dig +time=3 +tries=1 @$LAN_DNS "$1-udp.example" A
	expect_answer "$1, dig TCP" docker exec client dig +time=3 +tries=1 +tcp @$LAN_DNS "$1-tcp.example" A
	docker exec client nslookup "$1-nslookup.example" >"$work/nslookup.log" 2>&1 || { cat "$work/nslookup.log" >&2 && die "$1: nslookup"; }
	note "$1, busybox nslookup: $(grep -v '^$' "$work/nslookup.log" | xargs)"
}

test_seal() {
	local path
	say "compose.yaml: service seal, on the cgroup of another container"
	docker run -d --name client --dns $LAN_DNS client sleep 600 >/dev/null
	start_capture
	query_from_client before
	wait_for 10 "plain packets" saw 'port 53'
	stop "$tcpdump"
	note "unsealed, on the host's uplink: $(count_packets 'port 53') packets on port 53, $(count_packets 'port 853') on port 853"

	path=$(sed -n 's/^0:://p' "/proc/$(docker inspect -f '{{.State.Pid}}' client)/cgroup")
	# Without --cgroup, the service would seal the whole machine instead of this test's container.
	[[ $path == /"$cgroup"/* ]] || die "the client's cgroup $path is not below /$cgroup"
	docker volume create --label com.docker.compose.project=sotto-test --label com.docker.compose.volume=ca sotto-test_ca >/dev/null
	cp "$work/ca.pem" "$work/data/volumes/sotto-test_ca/_data/ca.pem"
	export SOTTO_FLAGS="--cgroup $path --upstream $UPSTREAM --ca-file /ca/ca.pem"
	compose --profile seal config >"$work/config.yaml"
	grep -q -e "--cgroup" "$work/config.yaml" || die "compose.yaml does not pass SOTTO_FLAGS"
	compose --profile seal up -d --no-build seal >"$work/compose.log" 2>&1 || { cat "$work/compose.log" >&2 && die "compose up failed"; }
	# Use its ID from here on: Compose 2 does not list stopped containers.
	seal=$(compose --profile seal ps -q seal)
	wait_for 30 "the seal" sealed
	start_capture
	query_from_client sealed
	wait_for 10 "TLS packets" saw 'port 853'
	stop "$tcpdump"
	note "sealed, on the host's uplink: $(count_packets 'port 53') packets on port 53, $(count_packets 'port 853') on port 853"
	! saw 'port 53' || { tcpdump -nr "$work/wire.pcap" 'port 53' 2>/dev/null; die "a plain packet left the host"; }
	compose --profile seal stop seal >/dev/null 2>&1
	[[ $(docker inspect -f '{{.State.ExitCode}}' "$seal") == 0 ]] || { docker logs "$seal" >&2 && die "sotto run exited with an error"; }
	! ip -o link | grep sotto || die "sotto run left links"
	[[ -z $(find /run/netns -name 'sotto*') ]] || die "sotto run left a namespace"
	expect_answer "after, dig UDP" docker exec client dig +time=3 +tries=1 @$LAN_DNS after.example A
}
sealed() { docker logs "$seal" 2>&1 | grep -q 'msg=sealed'; }

inside() {
	work=$1 cgroup=$2
	say "container engine"
	start_engine
	say "base images"
	import_golang
	import_client
	test_build
	make_lan
	test_forward
	test_offline
	test_seal
	say "stop the engine"
	docker rm -f client >/dev/null
	compose --profile seal --profile offline down --volumes >/dev/null 2>&1
	stop "$engine" 30
}

# remove_cgroups PREFIX: removes the empty parent cgroup that the engine leaves in each hierarchy.
remove_cgroups() {
	local dir
	while read -r dir; do rmdir "$dir" 2>/dev/null || true; done < <(find /sys/fs/cgroup -depth -type d -path "*/$1*" 2>/dev/null)
}

if [[ ${1:-} == inside ]]; then
	inside "$2" "$3"
	exit
fi
need_root
install_missing "${packages[@]}"
install_missing "docker docker-cli" # a separate package since Debian 13
if ! docker compose version >/dev/null 2>&1 && ! type -P docker-compose >/dev/null; then
	# Ubuntu's docker-compose is Compose 1; Compose 2 is docker-compose-v2.
	if apt_has docker-compose-v2; then apt_install docker-compose-v2; else install_missing "docker-compose docker-compose"; fi
fi
ensure_go
go mod download
build
work=$(mktemp -d /var/tmp/sotto-docker.XXXXXX)
defer rm -rf --one-file-system "$work"
defer remove_cgroups "sotto-docker-$$"
sandbox_pid bash "$0" inside "$work" "sotto-docker-$$"
say "docker-test: passed in $SECONDS s"
