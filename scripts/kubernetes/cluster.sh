# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that this file shares with kubernetes-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# A Kubernetes cluster in namespaces, for kubernetes-test.sh. Source this file after lib.sh. $state is its directory, $id
# its name.
#
# The room is a PID, mount and network namespace with no way out. Its network is the LAN: a bridge with the nodes' uplinks,
# a DNS over TLS upstream (10.59.0.2), a plain nameserver (8.8.8.8) whose answers differ from those of the upstream, and a
# registry (registry.test). Each node is a set of namespaces inside of it, with an address 10.59.0.1N. The first node has
# the control plane. Killing the room's first process removes all of it, except cgroups and $state.

readonly LAN_ADDRESS=10.59.0.254 UPSTREAM_ADDRESS=10.59.0.2 REGISTRY_ADDRESS=10.59.0.3 PLAIN_ADDRESS=8.8.8.8
readonly LAN_ADDRESS6=fd59::fe
# The cluster has both families.
readonly SERVICES=10.96.0.0/16,fd96::/112 CLUSTER_DNS=10.96.0.10 CLUSTER_DNS6=fd96::a PODS=10.244.0.0/16,fd44::/48
readonly SEALED_ANSWER=192.0.2.1 PLAIN_ANSWER=192.0.2.66 # of *.test

state=${state:-} id=${id:-}

cgroup2() { sed -n 's/^\([^ ]* \)\{4\}\([^ ]*\) .* - cgroup2 .*/\2/p' /proc/self/mountinfo | tail -n1; }
cluster_cgroup() { echo "sotto-kubernetes-$id"; }
node_address() { echo "10.59.0.1${1#node}"; }
node_address6() { echo "fd59::1${1#node}"; }
node_pods6() { echo "fd44:0:0:${1#node}::/64"; }

# ---- room ------------------------------------------------------------------------------------------------

# in_room COMMAND…: runs COMMAND on the LAN.
in_room() { nsenter -t "$(cat "$state/room.pid")" --mount --pid --net --wd="$PWD" -- "$@"; }

# background NAME COMMAND…: starts a daemon, detached, with its log in $state/log.
background() {
	local name=$1
	shift
	setsid "$@" >"$state/log/$name.log" 2>&1 </dev/null &
}

# zone FILE ADDRESS TEXT: writes the zone "test", with a wildcard.
zone() {
	cat >"$1" <<-END
		\$ORIGIN test.
		\$TTL 300
		@ SOA ns hostmaster 1 3600 600 86400 300
		@ NS ns
		ns A $UPSTREAM_ADDRESS
		registry A $REGISTRY_ADDRESS
		* A $2
		* TXT "$3"
	END
}

# nameserver NAME ADDRESS[@PORT] LINE…: starts nsd with the zone $state/NAME.zone.
nameserver() {
	local name=$1 address=$2
	shift 2
	{
		printf 'server:\n  ip-address: %s\n  server-count: 1\n  username: ""\n  chroot: ""\n  zonesdir: "%s"\n  database: ""\n' "$address" "$state"
		printf '  pidfile: "%s/%s.pid"\n  xfrdfile: "%s/%s.xfrd"\n  zonelistfile: "%s/%s.list"\n' "$state" "$name" "$state" "$name" "$state" "$name"
		printf '  logfile: "%s/log/%s.log"\n  tcp-query-count: 0\n  rrl-ratelimit: 0\n' "$state" "$name"
		printf '  %s\n' "$@"
		printf 'remote-control:\n  control-enable: no\nzone:\n  name: test\n  zonefile: "%s.zone"\n' "$name"
	} >"$state/$name.conf"
	in_room nsd -c "$state/$name.conf"
}

# certificate: makes the upstream's authority and certificate.
certificate() {
	local ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
	openssl req -x509 "${ec[@]}" -keyout "$state/ca.key" -out "$state/ca.pem" -days 30 -subj /CN=sotto-kubernetes
	openssl req "${ec[@]}" -keyout "$state/leaf.key" -out "$state/leaf.csr" -subj /CN=dns.test
	openssl x509 -req -in "$state/leaf.csr" -CA "$state/ca.pem" -CAkey "$state/ca.key" -CAcreateserial -days 30 \
		-extfile <(echo "subjectAltName=DNS:dns.test,IP:$UPSTREAM_ADDRESS") -out "$state/leaf.pem"
} 2>/dev/null

room_up() {
	local outer
	mkdir -p "$state/log"
	setsid bash -c 'set -euo pipefail; . scripts/lib.sh; sandbox_pid bash scripts/kubernetes/room.sh "$0"' "$state" >"$state/log/room.log" 2>&1 </dev/null &
	outer=$!
	wait_for 30 "the room (see $state/log/room.log)" test -e "$state/room.ready"
	pgrep -P "$(pgrep -P "$outer" -x unshare)" >"$state/room.pid"
	for address in $LAN_ADDRESS $UPSTREAM_ADDRESS $REGISTRY_ADDRESS; do in_room ip address add $address/24 dev lan; done
	in_room ip address add $LAN_ADDRESS6/64 dev lan nodad
	in_room ip address add $PLAIN_ADDRESS/32 dev lo
	certificate
	zone "$state/tls.zone" $SEALED_ANSWER sealed
	zone "$state/plain.zone" $PLAIN_ANSWER plain
	nameserver tls "$UPSTREAM_ADDRESS@853" "tls-port: 853" "tls-service-key: \"$state/leaf.key\"" "tls-service-pem: \"$state/leaf.pem\""
	nameserver plain $PLAIN_ADDRESS
	background capture nsenter -t "$(cat "$state/room.pid")" --mount --pid --net -- \
		tcpdump -ni lan -s 256 -U --immediate-mode -w "$state/lan.pcap" 'port 53 or port 853'
	wait_for 30 "tcpdump" grep -q 'listening on' "$state/log/capture.log"
	for node in node1 node2; do echo "$(node_address $node) $node"; done >"$state/hosts"
}

# room_down: kills everything, and removes cgroups and $state.
room_down() {
	local pid
	pid=$(cat "$state/room.pid" 2>/dev/null) || pid=
	if [[ -n $pid ]]; then
		kill -KILL "$pid" 2>/dev/null || true
		wait_for 30 "the room's end" not kill -0 "$pid"
	fi
	remove_cgroup
	rm -rf --one-file-system "$state"
}
not() { ! "$@"; }

remove_cgroup() {
	local dir end=$((SECONDS + 20))
	dir=$(cgroup2)/$(cluster_cgroup)${1:+/$1}
	while [[ -d $dir ]] && ((SECONDS < end)); do
		find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.2
	done
	[[ ! -d $dir ]] || note "cannot remove $dir: a process is left in it"
}

# ---- images ----------------------------------------------------------------------------------------------

# make_image NAME:TAG ENTRYPOINT DIR: writes DIR as an image of one layer to $state/images/NAME-TAG.tar, in the format of
# docker save. ENTRYPOINT is a JSON list.
make_image() {
	local work digest
	mkdir -p "$state/images"
	work=$(mktemp -d "$state/image.XXXXXX")
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$3" -cf "$work/layer.tar" .
	digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
	jq -n --argjson entrypoint "$2" --arg digest "sha256:$digest" --arg arch "$(go env GOARCH)" '{architecture: $arch, os: "linux",
		config: {Entrypoint: $entrypoint, Env: ["PATH=/bin:/usr/bin:/sbin"]}, rootfs: {type: "layers", diff_ids: [$digest]}, history: [{}]}' >"$work/config.json"
	jq -n --arg tag "localhost/$1" '[{Config: "config.json", RepoTags: [$tag], Layers: ["layer.tar"]}]' >"$work/manifest.json"
	tar -C "$work" -cf "$state/images/${1/:/-}.tar" manifest.json config.json layer.tar
	rm -r "$work"
}

# sotto_image TAG BINARY: localhost/sotto:TAG, as the Dockerfile makes it. The tag makes the images differ.
sotto_image() {
	local root=$state/root-sotto-$1
	mkdir -p "$root/etc/ssl/certs"
	cp "$2" "$root/sotto"
	cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	echo "$1" >"$root/tag"
	make_image "sotto:$1" '["/sotto"]' "$root"
	rm -r "$root"
}

# base_images: pause, busybox with the load generator, and CoreDNS.
base_images() {
	local root=$state/root-busybox
	mkdir -p "$root"/{bin,etc,tmp,root}
	cp "$(type -P busybox)" "$root/bin/busybox"
	chroot "$root" /bin/busybox --install -s /bin
	# shellcheck disable=SC2016 # expanded in the container
	make_image pause:1 '["/bin/busybox", "sh", "-c", "trap \"exit 0\" TERM INT; while :; do sleep 1000 & wait $!; done"]' "$root"
	cp "$load_binary" "$root/bin/load"
	make_image busybox:1 '["/bin/busybox"]' "$root"
	rm -r "$root"
	mkdir -p "$state/root-coredns"
	cp "$coredns_binary" "$state/root-coredns/coredns"
	make_image coredns:1 '["/coredns"]' "$state/root-coredns"
	rm -r "$state/root-coredns"
}

# import_images [NODE]: imports all images that were made.
import_images() {
	local tar
	for tar in "$state"/images/*.tar; do
		on_node "${1:-node1}" ctr -n k8s.io images import --base-name "localhost/$(basename "$tar" .tar)" "$tar" >/dev/null
	done
}

# ---- nodes -----------------------------------------------------------------------------------------------

# on_node NODE COMMAND…: runs COMMAND on the node, in its cgroup "system", or in that named by $within.
on_node() {
	local node=$1
	shift
	# shellcheck disable=SC2016 # expanded by the inner shell
	sh -c 'echo $$ >"$0" && exec "$@"' "$(cgroup2)/$(cluster_cgroup)/$node/${within:-system}/cgroup.procs" \
		nsenter -t "$(cat "$state/$node/pid")" --mount --pid --uts --ipc --net --wd=/ -- "$@"
}

kubectl() { on_node node1 "$state/bin/kubectl" --kubeconfig /etc/kubernetes/admin.kubeconfig "$@"; }

# in_pod NAMESPACE/POD COMMAND…
in_pod() {
	local pod=$1
	shift
	kubectl exec -n "${pod%%/*}" "${pod#*/}" -- "$@"
}

# node_boot NODE: makes the namespaces of a node, connects it to the LAN and starts its daemons.
node_boot() {
	local node=$1 outer dir=$state/$1 address
	address=$(node_address "$node")
	mkdir -p "$dir" "$(cgroup2)/$(cluster_cgroup)/$node"
	rm -f "$dir/ready"
	node_files "$node"
	setsid nsenter -t "$(cat "$state/room.pid")" --mount --pid --net -- \
		unshare --mount --pid --uts --ipc --net --fork --kill-child --mount-proc --propagation private -- \
		bash "$PWD/scripts/kubernetes/node-init.sh" "$node" "$address" "$dir" "$(cluster_cgroup)/$node" \
		>"$state/log/$node.log" 2>&1 </dev/null &
	outer=$!
	wait_for 30 "$node (see $state/log/$node.log)" test -e "$dir/ready"
	# nsenter forks for the PID namespace, and unshare for the next one.
	pgrep -P "$(pgrep -P "$outer")" >"$dir/pid"
	in_room ip link add "$node" type veth peer name uplink netns "$(on_room_pid "$node")"
	in_room ip link set "$node" master lan up
	on_node "$node" ip address add "$address/24" dev uplink
	on_node "$node" ip link set uplink up
	on_node "$node" ip address add "$(node_address6 "$node")/64" dev uplink nodad
	on_node "$node" ip route add default via $LAN_ADDRESS
	on_node "$node" ip route add default via $LAN_ADDRESS6
	local other
	for other in node1 node2; do
		[[ $other == "$node" ]] && continue
		on_node "$node" ip route add "10.244.${other#node}.0/24" via "$(node_address $other)"
		on_node "$node" ip route add "$(node_pods6 $other)" via "$(node_address6 $other)"
	done
	node_daemons "$node"
}

# on_room_pid NODE: prints the PID of the node's first process in the room's PID namespace.
on_room_pid() { awk '/^NSpid:/ { print $(NF - 1) }' "/proc/$(cat "$state/$1/pid")/status"; }

# node_kill NODE: destroys the node's namespaces with all processes, as a power failure does.
node_kill() {
	local pid
	pid=$(cat "$state/$1/pid")
	kill -KILL "$pid"
	wait_for 30 "the end of $1" not kill -0 "$pid"
	in_room ip link delete "$1" 2>/dev/null || true
	remove_cgroup "$1"
}

# node_files NODE: writes the configuration of the node's daemons.
node_files() {
	local dir=$state/$1/upper/etc node=$1
	mkdir -p "$dir/kubernetes/pki" "$dir/cni/net.d"
	cp "$state"/pki/* "$dir/kubernetes/pki/"
	cp "$state/admin.kubeconfig" "$state/tokens.csv" "$dir/kubernetes/"
	sed "s/NODE/${node#node}/g" scripts/kubernetes/yaml/cni.conflist >"$dir/cni/net.d/10-pods.conflist"
	cp scripts/kubernetes/yaml/kubelet.yaml "$dir/kubernetes/kubelet.yaml"
	sed "s/NODE/$node/" scripts/kubernetes/yaml/kube-proxy.yaml >"$dir/kubernetes/kube-proxy.yaml"
	sed "s#STATE#$state#" scripts/kubernetes/yaml/containerd.toml >"$dir/kubernetes/containerd.toml"
	mkdir -p "$dir/containerd/certs.d/registry.test"
	printf 'server = "http://registry.test"\n[host."http://registry.test"]\n  capabilities = ["pull", "resolve"]\n' >"$dir/containerd/certs.d/registry.test/hosts.toml"
	cat >"$state/bin/runc-$node" <<-END
		#!/bin/sh
		export NODE_CGROUP=$(cluster_cgroup)/$node NODE_MISSING="$(missing_capabilities)"
		exec $PWD/scripts/kubernetes/runc.sh "\$@"
	END
	chmod 755 "$state/bin/runc-$node"
	sed -i "s#RUNC#$state/bin/runc-$node#" "$dir/kubernetes/containerd.toml"
}

# missing_capabilities: prints those that this machine itself does not have, with which runc would fail.
missing_capabilities() {
	comm -23 <(setpriv --list-caps | sort) <(setpriv --dump | sed -n 's/^Capability bounding set: //p' | tr , '\n' | sort) |
		sed 's/.*/CAP_\U&/' | xargs
}

# credentials: makes the service account's key and the administrator's token, once per cluster.
credentials() {
	local token
	mkdir -p "$state/pki"
	openssl genrsa -out "$state/pki/sa.key" 2048 2>/dev/null
	openssl rsa -in "$state/pki/sa.key" -pubout -out "$state/pki/sa.pub" 2>/dev/null
	front_proxy
	token=$(openssl rand -hex 16)
	echo "$token,admin,admin,system:masters" >"$state/tokens.csv"
	cat >"$state/admin.kubeconfig" <<-END
		apiVersion: v1
		kind: Config
		clusters: [{name: k, cluster: {server: "https://$(node_address node1):6443", insecure-skip-tls-verify: true}}]
		users: [{name: a, user: {token: $token}}]
		contexts: [{name: c, context: {cluster: k, user: a}}]
		current-context: c
	END
}

# front_proxy: makes the certificate by which an API that the API server delegates to knows it.
front_proxy() {
	local pki=$state/pki ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
	openssl req -x509 "${ec[@]}" -keyout "$pki/front-proxy-ca.key" -out "$pki/front-proxy-ca.crt" -days 30 -subj /CN=front-proxy-ca
	openssl req "${ec[@]}" -keyout "$pki/front-proxy-client.key" -out "$pki/front-proxy-client.csr" -subj /CN=front-proxy-client
	openssl x509 -req -in "$pki/front-proxy-client.csr" -CA "$pki/front-proxy-ca.crt" -CAkey "$pki/front-proxy-ca.key" -CAcreateserial \
		-days 30 -extfile <(echo 'extendedKeyUsage=clientAuth') -out "$pki/front-proxy-client.crt"
} 2>/dev/null

node_daemon() {
	local node=$1 name=$2
	shift 2
	case $name in
	containerd | kubelet) export within=runtime ;;
	*) export within=system ;;
	esac
	background "$node-$name" bash -c 'set -euo pipefail; state=$1 id=$2; . "$3/cluster.sh"; shift 3; on_node "$@"' \
		daemon "$state" "$id" "$PWD/scripts/kubernetes" "$node" "$@"
	unset within
}

# node_daemons NODE: starts the node's daemons, and on the first node those of the control plane.
node_daemons() {
	local node=$1 bin=$state/bin etc=/etc/kubernetes
	node_daemon "$node" containerd containerd -c $etc/containerd.toml
	wait_for 60 "containerd" on_node "$node" ctr version
	import_images "$node"
	[[ $node != node1 ]] || control_plane
	node_daemon "$node" kubelet "$bin/kubelet" --config=$etc/kubelet.yaml --kubeconfig=$etc/admin.kubeconfig \
		--hostname-override="$node" --node-ip="$(node_address "$node"),$(node_address6 "$node")"
	node_daemon "$node" kube-proxy "$bin/kube-proxy" --config=$etc/kube-proxy.yaml
}

control_plane() {
	local bin=$state/bin etc=/etc/kubernetes
	node_daemon node1 etcd etcd --data-dir "$state/node1/etcd" --listen-client-urls http://127.0.0.1:2379 \
		--advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
	wait_for 60 "etcd" on_node node1 env ETCDCTL_API=3 etcdctl endpoint health
	node_daemon node1 kube-apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=$SERVICES \
		--cert-dir="$state/apiserver" --advertise-address="$(node_address node1)" --secure-port=6443 \
		--service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=$etc/pki/sa.pub \
		--service-account-signing-key-file=$etc/pki/sa.key --authorization-mode=RBAC --token-auth-file=$etc/tokens.csv --allow-privileged=true \
		--requestheader-client-ca-file=$etc/pki/front-proxy-ca.crt --requestheader-allowed-names=front-proxy-client \
		--requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
		--requestheader-extra-headers-prefix=X-Remote-Extra- \
		--proxy-client-cert-file=$etc/pki/front-proxy-client.crt --proxy-client-key-file=$etc/pki/front-proxy-client.key
	wait_for 180 "the API server" kubectl get --raw /readyz
	node_daemon node1 kube-controller-manager "$bin/kube-controller-manager" --kubeconfig=$etc/admin.kubeconfig \
		--service-account-private-key-file=$etc/pki/sa.key --root-ca-file="$state/apiserver/apiserver.crt" --leader-elect=false --cluster-cidr=$PODS \
		--service-cluster-ip-range=$SERVICES
	node_daemon node1 kube-scheduler "$bin/kube-scheduler" --kubeconfig=$etc/admin.kubeconfig --leader-elect=false
}

node_ready() { kubectl get node "$1" --no-headers | grep -q ' Ready'; }

# pods_ready NAMESPACE COUNT [SELECTOR]: reports whether so many pods are ready and none is not.
pods_ready() {
	local table
	table=$(kubectl get pods -n "$1" ${3:+-l "$3"} --no-headers \
		-o custom-columns=R:.status.containerStatuses[0].ready,D:.metadata.deletionTimestamp 2>/dev/null)
	[[ $(grep -c '^true *<none>' <<<"$table") == "$2" && $(wc -l <<<"$table") == "$2" ]]
}

# cluster_up [NODES]: starts a cluster of one or two nodes, with CoreDNS and the pods of pods.yaml on the first one.
cluster_up() {
	local node binary
	mkdir -p "$state/bin" "$state/apiserver"
	for binary in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
		ln -sf "$components_binary" "$state/bin/$binary"
	done
	ln -sf "$registry_binary" "$state/bin/registry"
	room_up
	credentials
	base_images
	sotto_image 1 bin/sotto
	sotto_image 2 bin/sotto
	for node in $(seq -f node%g "${1:-1}"); do
		node_boot "$node"
		wait_for 120 "$node to be Ready" node_ready "$node"
	done
	kubectl apply -f "$PWD/scripts/kubernetes/yaml/dns.yaml" -f "$PWD/scripts/kubernetes/yaml/pods.yaml" >/dev/null
	wait_for 180 "CoreDNS" pods_ready kube-system 1 k8s-app=kube-dns
	wait_for 180 "the pods" pods_ready one $((3 + ${1:-1}))
	wait_for 180 "the pods" pods_ready two 5
}
