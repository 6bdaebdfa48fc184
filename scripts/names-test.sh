#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests that trace, metrics, dnstap, the query log and the web page tell workloads apart by the names that people know: two
# Docker containers behind a masquerading bridge, a rootless podman container behind slirp4netns, with a systemd of its user
# (podman's systemd cgroup manager), and two services of the host ask for different names at once, over connected and
# unconnected UDP and over TCP. Everything runs in isolated namespaces; images are built here.
#
#   sudo ./scripts/names-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-containers.sh

packages=(
	"dockerd docker.io"
	"podman podman"
	"/usr/lib/podman/netavark netavark"
	"runc runc"
	"newuidmap uidmap"
	"slirp4netns slirp4netns"
	"/usr/lib/systemd/user/dbus.socket dbus-user-session"
	"jq jq"
)

readonly METRICS=127.0.0.1:9053 QUERIES=5
readonly USER_SLICE=/user.slice/user-$USER_ID.slice
readonly USER_SERVICE=$USER_SLICE/user@$USER_ID.service

# The clients, and the nameservers that they ask: NAME ADDRESS WORKLOAD.
clients=(
	"web 9.9.9.9 docker:web"
	"shop 8.8.8.8 docker:shop"
	"db 1.1.1.1 podman:$USER_ID/db"
	"api 8.8.4.4 api.service"
	"cron $LAN_DNS cron.service"
)

# ---- workloads -------------------------------------------------------------------------------------------

start_docker() {
	dockerd --data-root "$work/data" --exec-root /run/docker --pidfile /run/dockerd.pid --host unix:///run/docker.sock \
		--exec-opt native.cgroupdriver=cgroupfs >"$work/dockerd.log" 2>&1 &
	engine=$!
	export DOCKER_HOST=unix:///run/docker.sock
	wait_for 60 "dockerd (see $work/dockerd.log)" docker version
	docker import -c 'ENV PATH=/bin:/usr/bin' "$work/client.tar" client >/dev/null
	docker run -d --name web client sleep 600 >/dev/null
	docker run -d --name shop client sleep 600 >/dev/null
	note "Docker $(docker version --format '{{.Server.Version}}'), containers web and shop on the default bridge"
}

# start_user: starts a systemd for the user as the system's would, in a mount namespace in which there is only cgroup v2.
start_user() {
	local service
	mkdir -p /run/systemd/system # how programs find out that systemd runs
	service=$(cgroup2)$USER_SERVICE
	mkdir -p "$service"
	chown "$USER_ID" "$service" "$service"/cgroup.{procs,threads,subtree_control}
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount sh -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' sh \
		"$work/as-user" "/sys/fs/cgroup$USER_SERVICE" /lib/systemd/systemd --user >"$work/systemd.log" 2>&1 &
	user=$!
	wait_for 20 "the user's systemd (see $work/systemd.log)" test -e "/run/user/$USER_ID/bus" -a -d "$service/init.scope"
}

podman_user() {
	(cd / && nsenter --mount="/proc/$user/ns/mnt" "$work/as-user" "/sys/fs/cgroup$USER_SERVICE/init.scope" \
		env DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$USER_ID/bus" \
		podman --storage-driver vfs --events-backend file --runtime runc --network-backend netavark "$@")
}

start_podman() {
	podman_user import -q -c 'ENV PATH=/bin:/usr/bin' "$work/client.tar" client >"$work/podman.log" 2>&1 || die "podman import failed: $(cat "$work/podman.log")"
	# No limit of processes: on machines with hierarchies of cgroup v1 its controller is not in that of v2.
	podman_user --cgroup-manager systemd run -d --name db --network slirp4netns --pids-limit 0 client sleep 600 >"$work/podman.log" 2>&1 ||
		die "podman run failed: $(cat "$work/podman.log")"
	path=$(cgroup_of "$(podman_user inspect -f '{{.State.Pid}}' db)")
	[[ $path == "$USER_SERVICE"/user.slice/libpod-*.scope* ]] || die "the rootless container has the cgroup $path"
	note "$(podman_user version --format 'podman {{.Client.Version}}'), rootless container db in $path"
}

# in_service UNIT COMMAND…: runs a command of the host in the cgroup of a service.
in_service() {
	local group
	group=$(cgroup2)/$slice/$1
	mkdir -p "$group"
	shift
	# shellcheck disable=SC2016 # expanded by the inner shell
	PATH=$PWD/bin:$PATH sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" "$@"
}

# in_client NAME COMMAND…: runs a command in a workload.
in_client() {
	local name=$1
	shift
	case $name in
	web | shop) docker exec -i "$name" "$@" ;;
	db) podman_user exec db "$@" ;;
	*) in_service "$name.service" "$@" ;;
	esac
}

# ---- queries ---------------------------------------------------------------------------------------------

# start_recording: seals the workloads, records their queries in all ways, and waits until their names have been found.
start_recording() {
	local name to group args=()
	for group in web shop; do args+=(--cgroup "$(cgroup_of "$(docker inspect -f '{{.State.Pid}}' $group)")"); done
	mkdir -p "$(cgroup2)/$slice"
	cat >"$work/sotto.toml" <<-END
		metrics = "$METRICS"
		query-log = "$work/queries.jsonl"
		dnstap-file = "$work/taps"
		dnstap-messages = ["client"]
	END
	start_seal --config "$work/sotto.toml" "${args[@]}" --cgroup "$USER_SLICE" --cgroup "/$slice"
	bin/sotto trace --json >"$work/trace.jsonl" &
	trace=$!
	for name in "${clients[@]}"; do
		read -r name to _ <<<"$name"
		in_client "$name" dig +time=5 +tries=1 "@$to" "start.$name.example" >/dev/null || die "$name: no answer"
	done
	wait_for 20 "the names of all workloads" all_named
}
all_named() {
	local name names
	names=$(bin/sotto status --json | jq -r '.workloads[].workload_name')
	for name in "${clients[@]}"; do grep -qxF "${name##* }" <<<"$names" || return 1; done
}

# ask NAME ADDRESS: queries of one client, each for another name: dig connects its sockets, the client of the tests does not.
ask() {
	local i
	in_client "$1" env SOTTO_TEST_CLIENT=named asker sendto "$2" "free.$1" $QUERIES </dev/null >"$work/ask-$1.log" 2>&1 &&
		for ((i = 0; i < QUERIES; i++)); do
			in_client "$1" dig +time=5 +tries=1 "@$2" "n$i.udp.$1.example" A &&
				in_client "$1" dig +tcp +time=5 +tries=1 "@$2" "n$i.tcp.$1.example" A || return
		done >>"$work/ask-$1.log" 2>&1
}

ask_all() {
	local name to pids=()
	for name in "${clients[@]}"; do
		read -r name to _ <<<"$name"
		ask "$name" "$to" &
		pids+=($!)
	done
	for name in "${pids[@]}"; do wait "$name" || { tail -n5 "$work"/ask-*.log >&2 && die "a client got no answer"; }; done
}

# expect_records WHAT: reads lines "NAME ADDRESS PROTOCOL WORKLOAD-NAME [PROCESS]" of all queries, and fails unless each client
# has all of its own, with its nameserver and its name.
expect_records() {
	local name to workload kind proto lines
	sort -u >"$work/records"
	for name in "${clients[@]}"; do
		read -r name to workload <<<"$name"
		for kind in udp tcp free; do
			proto=udp
			[[ $kind == udp || $kind == free ]] || proto=tcp
			lines=$(grep -E "^n[0-9]+\.$kind\.$name\.example\. " "$work/records") || die "$1: no queries $kind of $name"
			! grep -vE "^[^ ]+ ${to//./\\.} $proto $workload( |$)" <<<"$lines" || die "$1: $name: want $to, $proto and $workload"
			(($(wc -l <<<"$lines") == QUERIES)) || die "$1: $name: $(wc -l <<<"$lines") queries $kind"
		done
	done
	note "$1: ${#clients[@]} workloads, each with $((3 * QUERIES)) queries, its nameserver and its name"
}

# processes NAME: prints the processes of a client's queries by kind, as the trace has them.
processes() {
	jq -r "select(.name | test(\"^n[0-9]+[.](udp|tcp|free)[.]$1[.]\")) | (.name | split(\".\")[1]) + \" \" + .process.comm" "$work/trace.jsonl" |
		sort | uniq -c | xargs
}

check_trace() {
	jq -r '[.name, (.nameserver | sub(":[0-9]+$"; "")), .proto, .workload_name] | join(" ")' "$work/trace.jsonl" | expect_records trace
	local name found comm
	for name in web shop api cron db; do
		found=$(processes $name)
		comm=(asker isc-net-0000) # the latter is the thread of dig that sends
		[[ $name != db ]] || comm=(unknown unknown) # a relay's socket sends for the container
		note "trace: processes of $name: $found"
		[[ $found == "$QUERIES free ${comm[0]} $QUERIES tcp ${comm[1]} $QUERIES udp ${comm[1]}" ]] || die "trace: wrong processes of $name"
	done
}

check_metrics() {
	local name workload path count
	busybox wget -qO "$work/metrics" "http://$METRICS/metrics"
	for name in "${clients[@]}"; do
		read -r name _ workload <<<"$name"
		path=$(sed -n "s|^sotto_workload_info{.*name=\"$workload\",workload=\"\(.*\)\"} 1\$|\1|p" "$work/metrics")
		[[ -n $path && $path != *$'\n'* ]] || die "metrics: $workload is the name of '$path'"
		count=$(grep -F "sotto_workload_queries_total{workload=\"$path\"}" "$work/metrics" | cut -d' ' -f2)
		((count == 3 * QUERIES + 1)) || die "metrics: $workload has $count queries: $(jq -r .name "$work/queries.jsonl" | sort | uniq -c | xargs)"
		note "metrics: $workload: $count queries"
	done
}

inside() {
	work=$1 slice=$2
	mount --make-rshared /
	prepare_user
	install -D bin/asker "$work/client/bin/asker"
	client_image
	make_lan
	say "workloads"
	start_docker
	start_user
	start_podman
	start_recording
	start_capture
	say "queries"
	ask_all
	sleep 1 # the file of dnstap and the query log are written in batches
	check_trace
	check_metrics
	bin/dnstap-print <"$work/taps" | cut -d' ' -f1-3,5 | expect_records dnstap
	jq -r '[.name, (.nameserver | sub(":[0-9]+$"; "")), .proto, .workload_name] | join(" ")' "$work/queries.jsonl" | expect_records "query log"
	busybox wget -qO "$work/page" "http://$METRICS/"
	local name
	for name in "${clients[@]}"; do grep -q "<td>${name##* }<small" "$work/page" || die "the web page does not name ${name##* }"; done
	bin/sotto explain www.example --workload "podman:$USER_ID/db" | grep -q "$path" || die "explain does not find the workload db"
	end_capture "all workloads"
	say "stop"
	stop "$trace"
	end_seal
	podman_user rm -fa -t0 >/dev/null
	docker rm -f web shop >/dev/null
	stop "$engine" 30
}

if [[ ${1:-} == inside ]]; then
	inside "$2" "$3"
	exit
fi
need_root
install_missing "${packages[@]}" "${container_packages[@]}"
install_missing "docker docker-cli" # a separate package since Debian 13
ensure_go
build
CGO_ENABLED=0 go test -c -o bin/asker ./internal/e2e/trace # with the clients of package e2e
CGO_ENABLED=0 go build -trimpath -o bin/dnstap-print ./internal/dnstap/dnstaptest/print
work=$(mktemp -d /var/tmp/sotto-names.XXXXXX)
defer rm -rf --one-file-system "$work"
remove_empty() { rmdir "$@" 2>/dev/null || true; }
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do # of cgroup v1 and v2
	for group in docker user.slice; do [[ -d $hierarchy/$group ]] || defer remove_empty "$hierarchy/$group"; done
done
defer remove_cgroups "sotto-names-$$"
defer remove_cgroups "user-$USER_ID.slice"
sandbox_pid bash "$0" inside "$work" "sotto-names-$$.slice"
say "names-test: passed in $SECONDS s"
