# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that this file shares with kubernetes-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# Scenarios of kubernetes-test.sh: each function scenario_NAME runs on a running cluster and leaves it without Sotto.

# In this order.
scenarios() { printf '%s\n' names rollout drain crash reboot delete bootstrap whole-node node-local two-nodes replicas autoscaler manifests policy-names policy-node-local policy-pods policy-agent; }

address_of() { kubectl get pod -n "${1%/*}" "${1#*/}" -o jsonpath='{.status.podIP}'; }
reverse() { awk -F. '{ print $4 "." $3 "." $2 "." $1 ".in-addr.arpa" }' <<<"$1"; }

# cluster_names POD NAMESERVER: asks for names of every kind.
cluster_names() {
	local web0
	web0=$(address_of one/web-0)
	lookup "$1" "$2" A kubernetes.default.svc.cluster.local 10.96.0.1
	lookup "$1" "$2" A web.one.svc.cluster.local 10.96.0.80
	lookup "$1" "$2" A headless.one.svc.cluster.local "$web0"
	lookup "$1" "$2" A headless.one.svc.cluster.local "$(address_of one/web-1)"
	lookup "$1" "$2" A web-0.headless.one.svc.cluster.local "$web0"
	lookup "$1" "$2" SRV _sql._tcp.headless.one.svc.cluster.local web-0.headless.one.svc.cluster.local.
	lookup "$1" "$2" SRV _http._tcp.web.one.svc.cluster.local web.one.svc.cluster.local.
	lookup "$1" "$2" PTR "$(reverse 10.96.0.80)" web.one.svc.cluster.local.
	lookup "$1" "$2" PTR "$(reverse "$web0")" web-0.headless.one.svc.cluster.local.
	lookup "$1" "$2" A nothing.one.svc.cluster.local NXDOMAIN
	note "$1: services, headless services, pods, SRV and reverse names from $2"
}

# Names from every kind of pod. Without Sotto the same clients are seen in plain: the capture works.
scenario_names() {
	local pod text
	lookup two/default $PLAIN_ADDRESS:53 A plain.test $PLAIN_ANSWER
	lookup one/a $CLUSTER_DNS:53 A plain.test $PLAIN_ANSWER
	(($(packets 'port 53') > 0)) || die "the capture shows no plain packet without Sotto"
	deploy 1
	deployed
	mark
	for pod in one/a two/b two/hostnet-first; do
		in_pod $pod cat /etc/resolv.conf | grep -qx "nameserver $CLUSTER_DNS" || die "$pod does not use $CLUSTER_DNS"
		cluster_names $pod $CLUSTER_DNS:53
		cluster_names $pod "[$CLUSTER_DNS6]:53"
		lookup $pod $CLUSTER_DNS:53 A public.test $SEALED_ANSWER
		lookup $pod "[$CLUSTER_DNS6]:53" A public.test $SEALED_ANSWER
		lookup $pod $CLUSTER_DNS:53 TXT public.test '"sealed"'
	done
	# By the resolver of the C library's kind, with search domains.
	text=$(in_pod one/a ping -c1 -w5 web-0.headless 2>&1) || true
	grep -qF "($(address_of one/web-0))" <<<"$text" || die "a short name in one/a: $text"
	for pod in two/hostnet:$PLAIN_ADDRESS two/default:$PLAIN_ADDRESS two/none:9.9.9.9; do
		in_pod ${pod%:*} cat /etc/resolv.conf | grep -qx "nameserver ${pod#*:}" || die "$pod: unexpected resolv.conf"
		lookup ${pod%:*} ${pod#*:}:53 A public.test $SEALED_ANSWER
		# A name of the cluster, asked of another nameserver, leaves neither in plain nor to the upstream.
		lookup ${pod%:*} ${pod#*:}:53 A secret.cluster.local NXDOMAIN
		lookup ${pod%:*} "[2001:db8::53]:53" A public.test $SEALED_ANSWER
		lookup ${pod%:*} "[2001:db8::53]:53" A secret.cluster.local NXDOMAIN
		# These pods can ask the cluster's resolver, too.
		cluster_names ${pod%:*} $CLUSTER_DNS:53
	done
	# Names that the cluster's resolver forwards are sealed as well: reverse names of other networks.
	lookup one/a $CLUSTER_DNS:53 PTR 1.2.3.10.in-addr.arpa REFUSED
	expect_sealed "names from every kind of pod"
	undeploy
	[[ -z $(leftovers) ]] || die "left: $(leftovers)"
}

# Ten rolling updates, the image and the configuration in turn, under load.
scenario_rollout() {
	local n
	deploy 1
	deployed
	mark
	start_loads
	for n in $(seq 10); do
		case $((n % 3)) in
		0) deploy 1 strict "log-level = \"debug\"" ;; # a changed configuration only
		1) deploy 2 ;;
		2) deploy 1 ;;
		esac
		deployed
		note "rolling update $n: $(kubectl get pods -n sotto --no-headers | awk '{ print $1, $3, "restarts", $4 }')"
	done
	stop_loads
	expect_sealed "ten rolling updates"
	undeploy
}

# A drained node: all pods but those of DaemonSets are evicted. Sotto and its clients stay.
scenario_drain() {
	local before
	deploy 1
	deployed
	before=$(sotto_uid)
	mark
	start_loads no-cluster
	kubectl drain node1 --ignore-daemonsets --force --delete-emptydir-data --timeout=300s >/dev/null || die "drain failed"
	sleep 5
	[[ $(sotto_uid) == "$before" ]] || die "the drain replaced Sotto's pod"
	# It can be updated meanwhile.
	deploy 2
	deployed
	kubectl uncordon node1 >/dev/null
	kubectl apply -f "$PWD/scripts/kubernetes/yaml/pods.yaml" >/dev/null
	wait_for 300 "the pods" pods_ready one 4
	wait_for 300 "the pods" pods_ready two 5
	wait_for 300 "CoreDNS" pods_ready kube-system 1 k8s-app=kube-dns
	cluster_names one/a $CLUSTER_DNS:53
	stop_loads
	expect_sealed "drain and uncordon"
	undeploy
}

# Sotto's process is killed: queries fail until kubelet has started it again, and none leaves in plain.
scenario_crash() {
	local before
	deploy 1
	deployed
	before=$(sotto_uid)
	mark
	start_loads
	sleep 3
	on_node node1 kill -KILL "$(sotto_pid)"
	wait_for 180 "the container to be ready again" restarted 1
	[[ $(sotto_uid) == "$before" ]] || die "it is another pod"
	sleep 3
	stop_loads lossy
	cluster_names one/a $CLUSTER_DNS:53
	lookup one/a $CLUSTER_DNS:53 A again.test $SEALED_ANSWER
	expect_sealed "kill -9"
	undeploy
}
restarted() { [[ $(kubectl get pods -n sotto -o jsonpath='{.items[0].status.containerStatuses[0].ready}{.items[0].status.containerStatuses[0].restartCount}') == "true$1" ]]; }

# The node's namespaces are destroyed and made again. Until Sotto's pod runs, nothing is sealed.
scenario_reboot() {
	local pod
	deploy 1
	deployed
	node_kill node1
	node_boot node1
	# The API still has the states from before the reboot: ask the pods themselves.
	wait_for 300 "Sotto" in_pod "sotto/$(sotto_pod)" /sotto status --ready
	for pod in one/a one/web-0 one/web-1 two/none; do wait_for 300 "$pod" in_pod $pod true; done
	wait_for 300 "CoreDNS" in_pod one/a load --server $CLUSTER_DNS:53 --name web-1.headless.one.svc.cluster.local \
		--want "$(address_of one/web-1)" --count 3 --rate 30 --timeout 3s
	mark
	cluster_names one/a $CLUSTER_DNS:53
	lookup two/none 9.9.9.9:53 A reboot.test $SEALED_ANSWER
	expect_sealed "after the reboot"
	undeploy
	[[ -z $(leftovers) ]] || die "left: $(leftovers)"
}

# The DaemonSet is deleted under each on-exit.
scenario_delete() {
	deploy 1 strict
	deployed
	undeploy
	[[ -z $(leftovers) ]] || die "strict: left: $(leftovers)"
	lookup one/a $CLUSTER_DNS:53 A opened.test $PLAIN_ANSWER
	note "strict: the seal is open, and nothing is left"

	deploy 1 open
	deployed
	undeploy
	[[ -z $(leftovers) ]] || die "open: left: $(leftovers)"
	lookup one/a $CLUSTER_DNS:53 A opened.test $PLAIN_ANSWER
	note "open: the seal is open, and nothing is left"

	deploy 1 closed
	deployed
	undeploy
	mark
	expect_closed one/a
	note "closed: queries fail; left: $(leftovers | xargs)"
	expect_sealed "closed"
	# Another DaemonSet takes it over.
	deploy 2 closed
	deployed
	lookup one/a $CLUSTER_DNS:53 A closed.test $SEALED_ANSWER
	undeploy
	expect_closed one/a
	expect_sealed "closed, a second time"
	down_on_node
	[[ -z $(leftovers) ]] || die "sotto down: left: $(leftovers)"
	lookup one/a $CLUSTER_DNS:53 A opened.test $PLAIN_ANSWER
	note "closed: sotto down opened the seal, and nothing is left"

	# The same in a pod, after a crash with forced deletion.
	deploy 1 strict
	deployed
	kubectl delete -n sotto daemonset/sotto --cascade=orphan >/dev/null
	on_node node1 kill -STOP "$(sotto_pid)"
	kubectl delete pod -n sotto --all --force --grace-period=0 >/dev/null 2>&1
	wait_for 120 "the process to end" not sotto_pid
	expect_closed one/a
	overlay=removal deploy 1 strict
	wait_for 120 "sotto down in a pod" removed
	undeploy
	[[ -z $(leftovers) ]] || die "the removal: left: $(leftovers)"
	lookup one/a $CLUSTER_DNS:53 A opened.test $PLAIN_ANSWER
	note "killed: deploy/kubernetes/removal opened the seal, and nothing is left"
}
removed() { kubectl logs -n sotto -l app.kubernetes.io/component=node | grep -q 'removed the leftovers'; }

# expect_closed POD: fails unless queries fail.
expect_closed() {
	! in_pod "$1" load --server $CLUSTER_DNS:53 --name closed.test --want $PLAIN_ANSWER --rate 30 --count 3 --timeout 2s --ways fresh >/dev/null 2>&1 ||
		die "$1: a query left although the seal is closed"
}

# start_registry: a registry on the LAN, called registry.test, with the image sotto:pull.
start_registry() {
	[[ ! -s $state/log/registry.log ]] || return 0
	# An image of its own: containerd forgets all names of an image whose content is removed.
	sotto_image pull bin/sotto
	mv "$state/images/sotto-pull.tar" "$state/"
	background registry nsenter -t "$(cat "$state/room.pid")" --mount --pid --net -- \
		"$state/bin/registry" $REGISTRY_ADDRESS:80 "sotto:pull=$state/sotto-pull.tar"
	wait_for 60 "the registry" grep -q serving "$state/log/registry.log"
}

pulls() { grep -c -E '(GET|HEAD) /v2/sotto/manifests' "$state/log/registry.log"; }

# forget_image: removes the image from the node.
forget_image() {
	local image
	for image in $(on_node node1 ctr -n k8s.io images ls -q | grep -e '^registry.test/'); do
		on_node node1 ctr -n k8s.io images rm --sync "$image" >/dev/null
	done
}

readonly PULL_ALWAYS='[{"op": "replace", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Always"}]'

# expect_only_registry WHAT: fails if other plain packets left the node since mark than those for the registry's name.
expect_only_registry() {
	local others
	others=$(tcpdump -nr "$state/lan.pcap" 'dst port 53' 2>/dev/null | tail -n "+$((marked + 1))" | grep -cv ' \(A\|AAAA\)? registry\.test\.') || true
	((others == 0)) || die "$1: $others plain queries other than for registry.test left the node"
	note "$1: no plain query left the node, except for registry.test"
}
mark_queries() { marked=$(packets 'dst port 53'); }

# A node whose seal is closed pulls Sotto's own image, from a registry that it knows by name.
scenario_bootstrap() {
	local before
	start_registry
	mark_queries
	image=registry.test/sotto deploy pull closed "" "$PULL_ALWAYS"
	deployed
	undeploy
	expect_closed one/a
	forget_image
	before=$(pulls)
	image=registry.test/sotto deploy pull closed "" "$PULL_ALWAYS"
	deployed
	(($(pulls) > before)) || die "the image was not pulled from the registry"
	lookup one/a $CLUSTER_DNS:53 A pulled.test $SEALED_ANSWER
	note "a closed node has pulled the image by name"
	# After a crash, too: with Always, each start of a container asks the registry.
	before=$(pulls)
	on_node node1 kill -KILL "$(sotto_pid)"
	wait_for 240 "the container to be ready again" restarted 1
	lookup one/a $CLUSTER_DNS:53 A crashed.test $SEALED_ANSWER
	expect_only_registry "bootstrap"
	undeploy
	down_on_node
}

# The whole node with the runtime and kubelet excluded, as in deploy/kubernetes/whole-node; and without the exception, which
# shows that it is needed.
scenario_whole_node() {
	local node
	node=$(cluster_cgroup)/node1
	start_registry
	mark_queries
	image=registry.test/sotto deploy pull closed "cgroups = [\"$node\"]
exclude = [\"$node/runtime\"]" "$PULL_ALWAYS"
	deployed
	[[ $(on_node node1 dig +short +time=10 @$PLAIN_ADDRESS host.test) == "$SEALED_ANSWER" ]] || die "a service of the node is not sealed"
	lookup two/hostnet 9.9.9.9:53 A pod.test $SEALED_ANSWER
	cluster_names one/a $CLUSTER_DNS:53
	undeploy
	[[ -z $(on_node node1 dig +short +time=2 +tries=1 @$PLAIN_ADDRESS host.test | grep -v '^;') ]] || die "a query of the node left although the seal is closed"
	forget_image
	image=registry.test/sotto deploy pull closed "cgroups = [\"$node\"]
exclude = [\"$node/runtime\"]" "$PULL_ALWAYS"
	deployed
	note "whole node, closed: the image was pulled"
	undeploy
	down_on_node
	expect_only_registry "whole node"

	image=registry.test/sotto deploy pull closed "cgroups = [\"$node\"]" "$PULL_ALWAYS"
	deployed
	undeploy
	forget_image
	image=registry.test/sotto deploy pull closed "cgroups = [\"$node\"]" "$PULL_ALWAYS"
	wait_for 120 "the pull to fail" pull_fails
	note "without the exception a closed node cannot pull"
	down_on_node
	deployed
	note "after sotto down it can"
	undeploy
	down_on_node
	[[ -z $(leftovers) ]] || die "left: $(leftovers)"
}
pull_fails() { kubectl get pods -n sotto --no-headers | grep -q -e ErrImagePull -e ImagePullBackOff; }
