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
. scripts/lib-docker.sh

# ---- images ----------------------------------------------------------------------------------------------

import_client() {
	client_image
	docker import -c 'ENV PATH=/bin:/usr/bin' "$work/client.tar" client >/dev/null
}

# ---- tests -----------------------------------------------------------------------------------------------

query_11222() {
	wait_for 30 "an answer at 11222" dig +time=1 +tries=1 -p 11222 @127.0.0.1 ready.example
	expect_answer "UDP 11222" dig +notcp -p 11222 @127.0.0.1 "$1-udp.example" A
	expect_answer "TCP 11222" dig +tcp -p 11222 @127.0.0.1 "$1-tcp.example" A
}

test_build() {
	say "docker build, from the real Dockerfile"
	serve_modules
	docker build --quiet -t sotto --build-arg GOPROXY=http://$BRIDGE:8080 --build-arg GOSUMDB=off \
		--build-arg VERSION=docker-test . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2 && die "docker build failed"; }
	stop "$proxy"
	note "$(docker run --rm sotto version), $(docker image inspect -f '{{.Size}}' sotto | numfmt --to=iec) bytes"
	! docker run --rm --entrypoint /bin/sh sotto -c true 2>/dev/null || die "the image contains a shell"
	[[ $(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.version"}}' sotto) == docker-test ]] ||
		die "the image has no label with its version"
	docker create --name files sotto >/dev/null
	docker cp files:/usr/share/doc/sotto/sbom.cdx.json "$work/" >/dev/null || die "the image has no SBOM"
	grep -q '"pkg:golang/github.com/cilium/ebpf@' "$work/sbom.cdx.json" || die "the SBOM in the image lacks a module"
	docker rm files >/dev/null
}

# expect_healthy CONTAINER: waits until the image's health check succeeds.
expect_healthy() {
	wait_for 60 "the health check of $1" healthy "$1"
	note "health check: $(docker inspect -f '{{.State.Health.Status}}' "$1")"
}
healthy() { [[ $(docker inspect -f '{{.State.Health.Status}}' "$1") == healthy ]]; }

test_forward() {
	say "compose.yaml: default service"
	docker volume create --label com.docker.compose.project=sotto-test --label com.docker.compose.volume=ca sotto-test_ca >/dev/null
	cp "$work/ca.pem" "$work/data/volumes/sotto-test_ca/_data/ca.pem"
	SOTTO_FLAGS="--upstream $UPSTREAM --ca-file /ca/ca.pem" compose up -d --no-build sotto >"$work/compose.log" 2>&1 ||
		{ cat "$work/compose.log" >&2 && die "compose up failed"; }
	query_11222 forward
	expect_healthy "$(compose ps -q sotto)"
	compose down >/dev/null 2>&1
}

# test_run: the container of README.md that forwards, read-only and without capabilities but one.
test_run() {
	say "docker run, as in README.md: forward"
	docker run -d --name forward --read-only --tmpfs /run/sotto --cap-drop ALL --cap-add NET_BIND_SERVICE \
		-p 11222:53/udp -p 11222:53/tcp -v "$work/ca.pem:/ca.pem:ro" sotto serve --listen :53 --upstream $UPSTREAM --ca-file /ca.pem >/dev/null
	query_11222 run
	expect_healthy forward
	docker rm -f forward >/dev/null
}

# test_run_seal CGROUP: the container of README.md that seals.
test_run_seal() {
	say "docker run, as in README.md: seal"
	seal=$(docker run -d --privileged --network host --pid host --cgroupns host \
		-v /sys/fs/cgroup:/sys/fs/cgroup -v /sys/fs/bpf:/sys/fs/bpf -v /run/sotto:/run/sotto \
		-v /run/netns:/run/netns:shared -v /run/docker/netns:/run/docker/netns:ro,rslave -v "$work/ca.pem:/ca.pem:ro" \
		sotto run --cgroup "$1" --upstream $UPSTREAM --ca-file /ca.pem)
	wait_for 30 "the seal" sealed
	expect_healthy "$seal"
	start_capture
	query_from docker client $LAN_DNS run
	end_capture "docker run"
	docker stop "$seal" >/dev/null
	[[ $(docker inspect -f '{{.State.ExitCode}}' "$seal") == 0 ]] || { docker logs "$seal" >&2 && die "sotto run exited with an error"; }
	docker rm "$seal" >/dev/null
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
	expect_healthy "$seal"
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
	test_run_seal "$client"
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
	test_run
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
install_missing "${docker_packages[@]}" "${container_packages[@]}"
install_missing "docker docker-cli" # a separate package since Debian 13
if ! docker compose version >/dev/null 2>&1 && ! type -P docker-compose >/dev/null; then
	# Ubuntu's docker-compose is Compose 1; Compose 2 is docker-compose-v2.
	if apt_has docker-compose-v2; then apt_install docker-compose-v2; else install_missing "docker-compose docker-compose"; fi
fi
ensure_go
go mod download
download_sbom_tool
build
work=$(mktemp -d /var/tmp/sotto-docker.XXXXXX)
defer rm -rf --one-file-system "$work"
defer remove_cgroups "sotto-docker-$$"
sandbox_pid bash "$0" inside "$work" "sotto-docker-$$"
say "docker-test: passed in $SECONDS s"
