#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto with podman and its resolver aardvark-dns, as root and rootless. podman runs in isolated namespaces, with its
# own storage, and does not interfere with others on this machine. The image is built here, because none can be pulled.
#
#   sudo ./scripts/podman-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-containers.sh

# slirp4netns: the relay of rootless containers before podman 5, and passt since. runc: crun does not support hierarchies of
# cgroup v1 and v2 together.
packages=(
	"podman podman"
	"/usr/lib/podman/netavark netavark"
	"/usr/lib/podman/aardvark-dns aardvark-dns"
	"runc runc"
	"newuidmap uidmap"
	"slirp4netns slirp4netns"
	"pasta passt"
)

options=(--storage-driver vfs --cgroup-manager cgroupfs --events-backend file --runtime runc --network-backend netavark)

# podman_root, podman_user: run podman as root, and as an unprivileged user in the cgroup of the variable user_cgroup.
podman_root() {
	HOME=$work podman --root "$work/root" --runroot /run/podman-root --tmpdir /run/podman-tmp --network-config-dir "$work/networks" \
		"${options[@]}" "$@"
}
podman_user() { (cd / && "$work/as-user" "$user_cgroup" podman "${options[@]}" "$@"); }

# import_client ENGINE
import_client() { "$1" import -q -c 'ENV PATH=/bin:/usr/bin' "$work/client.tar" client >/dev/null 2>&1 || die "$1: podman import failed"; }

# start_container ENGINE NAME FLAG…
start_container() {
	local engine=$1 name=$2
	shift 2
	"$engine" run -d --name "$name" "$@" client sleep 600 >/dev/null 2>"$work/podman.log" || { cat "$work/podman.log" >&2 && die "podman run failed"; }
}

# pid_of ENGINE CONTAINER, address_of ENGINE CONTAINER: print its first process, and its address on the network lab.
pid_of() { "$1" inspect -f '{{.State.Pid}}' "$2"; }
address_of() { "$1" inspect -f '{{.NetworkSettings.Networks.lab.IPAddress}}' "$2"; }

# expect_names ENGINE LABEL: fails unless containers find each other by their names, and by those with podman's domain.
expect_names() {
	local web
	web=$(address_of "$1" web)
	expect_text "$2, app, web by name" "$web" "$1" exec app nslookup web
	expect_text "$2, app, web by one label" "$web" "$1" exec app dig +time=3 +tries=1 web. A
	expect_text "$2, app, web by its full name" "$web" "$1" exec app dig +time=3 +tries=1 web.dns.podman A
	expect_text "$2, web, app by name" "$(address_of "$1" app)" "$1" exec web nslookup app
}

# expect_source LABEL: fails unless aardvark-dns sees the address of the container that asks: only then does it know the
# names in all of its networks, and names of addresses. Its resolver in one network is asked for a name in the other.
expect_source() {
	local server
	server=$(podman_root network inspect lab | sed -n 's/.*"gateway": "\(.*\)".*/\1/p')
	expect_text "$1, both, db in another network" "$(podman_root inspect -f '{{.NetworkSettings.Networks.other.IPAddress}}' db)" \
		podman_root exec both dig +time=3 +tries=1 "@$server" db. A
	expect_text "$1, app, web by address" web. podman_root exec app dig +time=3 +tries=1 +short "@$server" -x "$(address_of podman_root web)"
}

# query_public ENGINE CONTAINER LABEL: asks for public names: the nameserver in resolv.conf over UDP, and the LAN's over both.
query_public() {
	expect_answer "$3, $2, resolv.conf" "$1" exec "$2" dig +time=3 +tries=1 "$3-default.example" A
	query_from "$1" "$2" $LAN_DNS "$3"
}

# Seals one of two containers by its cgroup alone: aardvark-dns on the host is not sealed.
test_root() {
	local path
	say "podman as root: $(podman_root version --format '{{.Client.Version}}'), $(/usr/lib/podman/aardvark-dns version | sed -n 's/.*"version": "\(.*\)".*/aardvark-dns \1/p')"
	import_client podman_root
	podman_root network create lab >/dev/null
	podman_root network create other >/dev/null
	start_container podman_root web --network lab --cgroup-parent "/$cgroup"
	start_container podman_root db --network other --cgroup-parent "/$cgroup"
	start_container podman_root app --network lab --cgroup-parent "/$cgroup"
	start_container podman_root both --network lab,other --cgroup-parent "/$cgroup"
	expect_names podman_root before
	expect_source before
	path=$(cgroup_of "$(pid_of podman_root app)")
	[[ $path == /"$cgroup"/* ]] || die "the cgroup $path is not below /$cgroup"
	start_seal --cgroup "$path" --cgroup "$(cgroup_of "$(pid_of podman_root both)")"
	expect_source sealed # not captured: aardvark-dns 1.4 answers a reverse query, and forwards it nevertheless
	start_capture
	expect_names podman_root sealed
	query_public podman_root app sealed
	end_capture "podman as root"
	expect_workload "$work/sotto.log" sealed-default.example "$path"
	expect_workload "$work/sotto.log" web.dns.podman "$path"
	end_seal
	podman_root rm -fa -t0 >/dev/null
}

# Seals a user's slice: containers with the default network, whose relay slirp4netns or pasta is sealed as well. Containers
# on a user's network are excluded, so that they reach aardvark-dns, which exists in a namespace that belongs to the user:
# what leaves this namespace is sent by aardvark-dns or by the relay, which are sealed.
test_rootless() {
	local slice="/$cgroup/user-$USER_ID.slice"
	local session=$slice/session.scope excluded=$slice/containers.slice
	mkdir -p "$(cgroup2)$session" "$(cgroup2)$excluded"
	user_cgroup=$(cgroup2)$session
	say "podman rootless"
	import_client podman_user
	podman_user network create lab >/dev/null
	start_container podman_user solo
	start_container podman_user network --network lab # starts the relay and aardvark-dns, in the session
	user_cgroup=$(cgroup2)$excluded
	start_container podman_user web --network lab
	start_container podman_user app --network lab
	expect_names podman_user before
	[[ $(cgroup_of "$(pid_of podman_user app)") == "$excluded"* && $(cgroup_of "$(pgrep -f '^/usr/lib/podman/aardvark-dns')") == "$session" ]] ||
		die "the container app or aardvark-dns is in an unexpected cgroup"
	start_seal --cgroup "$slice" --exclude "$excluded"
	start_capture
	expect_names podman_user sealed
	query_public podman_user app sealed-app
	query_public podman_user solo sealed-solo
	end_capture "podman rootless"
	expect_workload "$work/sotto.log" sealed-solo-default.example "$(cgroup_of "$(pid_of podman_user solo)")"
	expect_workload "$work/sotto.log" sealed-app-default.example "$session" # of aardvark-dns
	end_seal
	podman_user rm -fa -t0 >/dev/null
}

inside() {
	work=$1 cgroup=$2
	mount --make-rshared /
	mount -t tmpfs -o mode=1777 tmpfs /var/lib/containers
	prepare_user
	client_image
	make_lan
	test_root
	test_rootless
}

if [[ ${1:-} == inside ]]; then
	inside "$2" "$3"
	exit
fi
need_root
install_missing "${packages[@]}" "${container_packages[@]}"
ensure_go
build
work=$(mktemp -d /var/tmp/sotto-podman.XXXXXX)
defer rm -rf --one-file-system "$work"
defer remove_cgroups "sotto-podman-$$"
# podman creates it, here below a mount.
[[ -d /var/lib/containers ]] || { mkdir /var/lib/containers && defer rmdir /var/lib/containers; }
sandbox_pid bash "$0" inside "$work" "sotto-podman-$$"
say "podman-test: passed in $SECONDS s"
