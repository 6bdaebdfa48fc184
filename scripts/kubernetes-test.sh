#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests Sotto as a DaemonSet on a real Kubernetes: unmodified kubelet, API server, scheduler, controller manager, kube-proxy,
# containerd, CNI plugins and CoreDNS on a node in namespaces without a way out. Not part of scripts/test.sh. Needs 3 GB of
# memory.
#
#   sudo ./scripts/kubernetes-test.sh [test [SCENARIO…]]    start a cluster, run the scenarios (default: all), remove it
#   sudo ./scripts/kubernetes-test.sh list                  the scenarios
#   sudo ./scripts/kubernetes-test.sh build                 only build what is missing
#
# A cluster to use by hand. ID is any short word; clusters with different words can run at the same time:
#
#   sudo ./scripts/kubernetes-test.sh up ID [NODES]         start a cluster of one node (or two), and keep it
#   sudo ./scripts/kubernetes-test.sh kubectl ID ARG…       kubectl as the administrator
#   sudo ./scripts/kubernetes-test.sh pod ID NAMESPACE/POD COMMAND…
#   sudo ./scripts/kubernetes-test.sh node ID NODE COMMAND…  run a command on a node (node1), as its root
#   sudo ./scripts/kubernetes-test.sh room ID COMMAND…      run a command on the LAN (tcpdump -ni lan)
#   sudo ./scripts/kubernetes-test.sh sotto ID TAG [BINARY] import BINARY (default: bin/sotto) as the image localhost/sotto:TAG
#   sudo ./scripts/kubernetes-test.sh scenario ID NAME      run a scenario there
#   sudo ./scripts/kubernetes-test.sh down ID               remove the cluster
#
#   SOTTO_KUBERNETES_CACHE=/var/cache/sotto-kubernetes      Kubernetes' components, CoreDNS, and Prometheus with its operator and
#                                                           adapter are built once (fifteen minutes on two processors, 8 GB of
#                                                           Go's caches) and kept here, 500 MB
#
# The pods one/a (ClusterFirst), two/hostnet, two/hostnet-first, two/default, two/none (nameserver 9.9.9.9) have busybox and
# the load generator of scripts/kubernetes/load. *.test is 192.0.2.1 over TLS (10.59.0.2#dns.test, authority in
# /var/tmp/sotto-kubernetes-ID/ca.pem) and 192.0.2.66 over plain DNS. Cgroups of the node are below
# sotto-kubernetes-ID/node1: seal sotto-kubernetes-ID/node1/kubepods, never the root cgroup.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/kubernetes/cluster.sh
. scripts/kubernetes/sotto.sh
. scripts/kubernetes/scenarios.sh
. scripts/kubernetes/scenarios-nodes.sh
. scripts/kubernetes/scenario-replicas.sh
. scripts/kubernetes/scenario-autoscaler.sh
. scripts/kubernetes/scenario-policy.sh

readonly KUBERNETES=v1.35.4
packages=(
	"etcd etcd-server"
	"etcdctl etcd-client"
	"/usr/lib/cni/ptp containernetworking-plugins"
	"conntrack conntrack"
	"containerd containerd"
	"runc runc"
	"jq jq"
	"nsd nsd"
	"openssl openssl"
	"iptables iptables"
	"nft nftables"
	"ip iproute2"
	"busybox busybox-static"
	"dig bind9-dnsutils"
	"tcpdump tcpdump"
	"pgrep procps"
)
cache=${SOTTO_KUBERNETES_CACHE:-/var/cache/sotto-kubernetes}

# build_cached MODULE LDFLAGS [PACKAGE [TAGS]]: builds PACKAGE (default: that of the module itself) of the module
# scripts/kubernetes/MODULE, unless the cache has it, and prints the file.
build_cached() {
	local module=$1 package=${3:-.} name file
	name=$(if [[ $package == . ]]; then echo "$module"; else basename "$package"; fi)
	file=$cache/$name-$(cat scripts/kubernetes/"$module"/{go.mod,go.sum} <(find scripts/kubernetes/"$module" -name "*.go" -exec cat {} +) <(go env GOVERSION GOARCH) | sha256sum | cut -c1-12)
	if [[ ! -x $file ]]; then
		say "build $name, once" >&2
		mkdir -p "$cache"
		(cd "scripts/kubernetes/$module" && CGO_ENABLED=0 GOMEMLIMIT=${GOMEMLIMIT:-6GiB} GOFLAGS="${GOFLAGS:-} -p=2 -buildvcs=false" \
			nice -n 19 go build -trimpath -tags "${4:-}" -ldflags "-s -w $2" -o "$file.$$" "$package") || die "cannot build $name in scripts/kubernetes/$module; see above"
		mv "$file.$$" "$file"
		find "$cache" -maxdepth 1 -name "$name-*" ! -path "$file" -mtime +30 -delete
	fi
	echo "$file"
}

prepare() {
	local version=k8s.io/component-base/version minor=${KUBERNETES#v1.}
	need_root
	install_missing "${packages[@]}"
	ensure_go
	components_binary=$(build_cached components \
		"-X $version.gitVersion=$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}")
	coredns_binary=$(build_cached coredns "")
	registry_binary=$(build_cached registry "")
	build_monitoring
	[[ -n ${SOTTO_KUBERNETES_NO_BUILD:-} ]] || build
	mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/kubernetes-load ./scripts/kubernetes/load
	load_binary=$PWD/bin/kubernetes-load
}

# use ID: selects a cluster.
use() {
	[[ $1 =~ ^[a-z0-9-]{1,20}$ ]] || die "invalid ID '$1': use up to 20 lower case letters, digits and dashes"
	id=$1 state=/var/tmp/sotto-kubernetes-$1
}
use_running() {
	use "$1"
	[[ -s $state/room.pid ]] || die "no cluster $1: start one with: $0 up $1"
}

up() {
	use "$1"
	[[ ! -e $state ]] || die "$state exists: remove the cluster with: $0 down $1"
	mkdir -p "$state"
	cluster_up "${2:-1}"
	say "cluster $id is up after $SECONDS s: $0 kubectl $id get pods -A"
}

# up_or_remove: up, and if it fails, everything is removed; the logs stay in /var/tmp.
up_or_remove() {
	defer keep_logs "$1"
	up "$@"
	_deferred=()
}
keep_logs() {
	[[ -z ${passed:-} ]] || { room_down && return; }
	rm -rf "/var/tmp/sotto-kubernetes-$1-log"
	cp -r "$state/log" "/var/tmp/sotto-kubernetes-$1-log" 2>/dev/null && note "logs: /var/tmp/sotto-kubernetes-$1-log"
	room_down
}

run_tests() {
	local name
	for name in "$@"; do declare -F "scenario_${name//-/_}" >/dev/null || die "unknown scenario $name: see $0 list"; done
	use "test-$$"
	defer keep_logs "test-$$"
	up "test-$$"
	for name in "$@"; do run_scenario "$name"; done
	passed=1
	say "kubernetes-test: $# scenarios passed in $SECONDS s"
}

run_scenario() {
	local start=$SECONDS
	say "$1"
	"scenario_${1//-/_}"
	note "$1: passed in $((SECONDS - start)) s"
}

command=${1:-test}
[[ $# == 0 ]] || shift
case $command in
list) scenarios ;;
build) prepare ;;
test)
	prepare
	if (($# == 0)); then mapfile -t all < <(scenarios); else all=("$@"); fi
	run_tests "${all[@]}"
	;;
up)
	[[ $# -gt 0 ]] || die "usage: $0 up ID [NODES]"
	prepare
	up_or_remove "$@"
	;;
down)
	need_root
	use "$1"
	room_down
	;;
kubectl | pod | node | room | sotto | scenario)
	need_root
	use_running "$1"
	shift
	case $command in
	kubectl) kubectl "$@" ;;
	pod) in_pod "$@" ;;
	node) on_node "$@" ;;
	room) in_room "$@" ;;
	sotto)
		sotto_image "$1" "${2:-bin/sotto}"
		import_images node1
		;;
	scenario) run_scenario "$1" ;;
	esac
	;;
*) die "unknown command $command: the first lines of $0 list all" ;;
esac
