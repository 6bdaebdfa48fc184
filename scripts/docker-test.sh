#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto in containers with a real engine: builds the Dockerfile, runs the services of compose.yaml, queries port
# 11222 over UDP and TCP, seals containers on the default bridge and on a user network from another container, and an engine
# with its embedded resolver. The engine runs in isolated namespaces and does not interfere with others on this machine.
# Base images are built here, because none can be pulled.
#
#   sudo ./scripts/docker-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-containers.sh

packages=(
	"dockerd docker.io"
	"python3 python3" # serves the module cache to docker build
)

readonly BRIDGE=172.30.99.1
export COMPOSE_PROJECT_NAME=sotto-test

# ---- images ----------------------------------------------------------------------------------------------

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
	client_image
	docker import -c 'ENV PATH=/bin:/usr/bin' "$work/client.tar" client >/dev/null
}

# ---- engine ----------------------------------------------------------------------------------------------

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
	# Not in a parent of the containers' cgroups, so that it is a workload of its own.
	mkdir -p "$(cgroup2)/$cgroup/engine"
	echo "$engine" >"$(cgroup2)/$cgroup/engine/cgroup.procs"
	export DOCKER_HOST=unix:///run/docker.sock
	wait_for 60 "dockerd (see $work/dockerd.log)" docker version
	note "$(docker version --format 'client {{.Client.Version}}, engine {{.Server.Version}}'), $(compose version --short)"
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

# pid_of CONTAINER, address_of CONTAINER: print its first process, and its address on the user network.
pid_of() { docker inspect -f '{{.State.Pid}}' "$1"; }
address_of() { docker inspect -f '{{.NetworkSettings.Networks.lab.IPAddress}}' "$1"; }

# start_clients: starts a container on the default bridge, and two on a user network, where the engine's resolver at
# 127.0.0.11 answers for them.
start_clients() {
	docker network create lab >/dev/null
	docker run -d --name client --dns $LAN_DNS client sleep 600 >/dev/null
	docker run -d --name app --network lab --dns $LAN_DNS client sleep 600 >/dev/null
	docker run -d --name web --network lab --dns $LAN_DNS client sleep 600 >/dev/null
}

# expect_names LABEL: fails unless containers on the user network find each other by name.
expect_names() {
	expect_text "$1, app, web by name" "$(address_of web)" docker exec app nslookup web
	expect_text "$1, app, web by name over TCP" "$(address_of web)" docker exec app dig +time=3 +tries=1 +tcp web A
	expect_text "$1, app, web by address" web.lab docker exec app dig +time=3 +tries=1 -x "$(address_of web)"
	expect_text "$1, web, app by name" "$(address_of app)" docker exec web nslookup app
}

# Seals a container on the default bridge and one on a user network by their cgroups alone: the engine is not sealed.
test_seal() {
	local client app
	say "compose.yaml: service seal, on the cgroups of two other containers"
	start_clients
	start_capture
	query_from docker client $LAN_DNS before
	query_from docker app 127.0.0.11 before
	wait_for 10 "plain packets" saw 'port 53'
	stop "$tcpdump"
	note "unsealed, on the host's uplink: $(count_packets 'port 53') packets on port 53, $(count_packets 'port 853') on port 853"

	client=$(cgroup_of "$(pid_of client)") app=$(cgroup_of "$(pid_of app)")
	# Without --cgroup, the service would seal the whole machine instead of this test's containers.
	[[ $client == /"$cgroup"/* && $app == /"$cgroup"/* ]] || die "the cgroups $client and $app are not below /$cgroup"
	docker volume create --label com.docker.compose.project=sotto-test --label com.docker.compose.volume=ca sotto-test_ca >/dev/null
	cp "$work/ca.pem" "$work/data/volumes/sotto-test_ca/_data/ca.pem"
	export SOTTO_FLAGS="--cgroup $client --cgroup $app --log-queries --upstream $UPSTREAM --ca-file /ca/ca.pem"
	compose --profile seal config >"$work/config.yaml"
	grep -q -e "--cgroup" "$work/config.yaml" || die "compose.yaml does not pass SOTTO_FLAGS"
	compose --profile seal up -d --no-build seal >"$work/compose.log" 2>&1 || { cat "$work/compose.log" >&2 && die "compose up failed"; }
	# Use its ID from here on: Compose 2 does not list stopped containers.
	seal=$(compose --profile seal ps -q seal)
	wait_for 30 "the seal" sealed
	start_capture
	query_from docker client $LAN_DNS sealed-client
	query_from docker app 127.0.0.11 sealed-app
	expect_names sealed
	end_capture sealed
	docker logs "$seal" >"$work/sotto.log" 2>&1
	expect_workload "$work/sotto.log" sealed-client-udp.example "$client"
	expect_workload "$work/sotto.log" sealed-app-tcp.example "$app"
	compose --profile seal stop seal >/dev/null 2>&1
	[[ $(docker inspect -f '{{.State.ExitCode}}' "$seal") == 0 ]] || { docker logs "$seal" >&2 && die "sotto run exited with an error"; }
	! ip -o link | grep sotto || die "sotto run left links"
	[[ -z $(find /run/netns -name 'sotto*') ]] || die "sotto run left a namespace"
	expect_answer "after, dig UDP" docker exec client dig +time=3 +tries=1 @$LAN_DNS after.example A
}
sealed() { docker logs "$seal" 2>&1 | grep -q 'msg=sealed'; }

# Seals all containers and the engine, and leaves queries to the engine's resolver alone, as on a sealed host. The engine
# asks for the containers, and their rules apply.
test_resolver() {
	local app web
	say "the engine's resolver, sealed with its containers"
	app=$(cgroup_of "$(pid_of app)") web=$(cgroup_of "$(pid_of web)")
	cat >"$work/sotto.toml" <<-END
		[[rule]]
		workload = "${app#/}"
		name = "blocked.example"
		use = "nxdomain"
	END
	start_seal --config "$work/sotto.toml" --cgroup "/$cgroup" --local-resolvers keep
	start_capture
	expect_text "app, a rule for its cgroup" NXDOMAIN docker exec app dig +time=3 +tries=1 blocked.example A
	expect_text "web, the same name" NOERROR docker exec web dig +time=3 +tries=1 blocked.example A
	query_from docker app 127.0.0.11 app
	query_from docker web 127.0.0.11 web
	query_from docker client $LAN_DNS client
	expect_names kept
	end_capture "sealed with the engine"
	expect_workload "$work/sotto.log" app-udp.example "$app"
	expect_workload "$work/sotto.log" web-tcp.example "$web"
	expect_workload "$work/sotto.log" client-tcp.example "$(cgroup_of "$(pid_of client)")"
	grep -q 'name=app-udp.example.*nameserver=192.0.2.53:53' "$work/sotto.log" || die "the engine did not ask for the container"
	end_seal

	# Now queries to the engine's resolver are redirected, and only local names are sent to it. It asks for those that it
	# does not know.
	start_seal --config "$work/sotto.toml" --cgroup "$app" --cgroup "/$cgroup/engine"
	start_capture
	expect_names redirected
	expect_answer "redirected, app, an unknown name" docker exec app dig +time=3 +tries=1 unknown. AAAA
	expect_text "redirected, app, a rule for its cgroup" NXDOMAIN docker exec app dig +time=3 +tries=1 blocked.example A
	end_capture "redirected"
	expect_workload "$work/sotto.log" unknown "$app"
	grep -q 'name=unknown.*nameserver=192.0.2.53:53' "$work/sotto.log" || die "the engine did not ask for the container"
	end_seal
}

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
	test_resolver
	say "stop the engine"
	docker rm -f client app web >/dev/null
	compose --profile seal --profile offline down --volumes >/dev/null 2>&1
	stop "$engine" 30
}

if [[ ${1:-} == inside ]]; then
	inside "$2" "$3"
	exit
fi
need_root
install_missing "${packages[@]}" "${container_packages[@]}"
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
