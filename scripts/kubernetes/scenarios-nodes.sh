# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that this file shares with kubernetes-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# Scenarios with another resolver than kube-dns on the same node: see scenarios.sh.

node_patch() { echo "[{\"op\": \"add\", \"path\": \"/spec/template/spec/nodeSelector/kubernetes.io~1hostname\", \"value\": \"$1\"}]"; }
client_on() { kubectl get pods -n one -l app=client --field-selector "spec.nodeName=$1" -o jsonpath='{.items[0].metadata.name}'; }
client_ready_on() { [[ $(kubectl get pods -n one -l app=client --field-selector "spec.nodeName=$1" -o jsonpath='{.items[0].status.containerStatuses[0].ready}') == true ]]; }

# expect_only_cluster WHAT: fails if other plain queries crossed the LAN since mark_queries than those for names of the
# cluster.
expect_only_cluster() {
	local queries others
	queries=$(tcpdump -nr "$state/lan.pcap" 'dst port 53' 2>/dev/null | tail -n "+$((marked + 1))")
	# Segments without a query, such as acknowledgements, have no name.
	others=$(grep -v -e '\.cluster\.local\.' -e '\.in-addr\.arpa\.' -e ', length 0$' <<<"$queries") || true
	[[ -z $others ]] || { head -n 20 <<<"$others" >&2 && die "$1: other plain queries than for names of the cluster left a node"; }
	note "$1: $(grep -c . <<<"$queries") plain packets between the nodes, all for names of the cluster"
}

# Two nodes, with kube-dns on the first one. Names of the cluster cross the network in plain, and no others do.
scenario_two_nodes() {
	local pod
	node_boot node2
	wait_for 180 "node2 to be Ready" node_ready node2
	wait_for 180 "a client on node2" client_ready_on node2
	pod=one/$(client_on node2)
	deploy 1 strict "" "$(node_patch node1)"
	deployed
	namespace=sotto2 node=node2 deploy 1 strict "cgroups = [\"$(cluster_cgroup)/node2/kubepods\"]" "$(node_patch node2)"
	wait_for 180 "Sotto on node2" pods_ready sotto2 1
	mark_queries
	cluster_names "$pod" $CLUSTER_DNS:53
	cluster_names one/a $CLUSTER_DNS:53
	lookup "$pod" $CLUSTER_DNS:53 A public.test $SEALED_ANSWER
	lookup "$pod" 9.9.9.9:53 A public.test $SEALED_ANSWER
	lookup "$pod" 9.9.9.9:53 A secret.cluster.local NXDOMAIN
	expect_only_cluster "two nodes"
	kubectl delete namespace sotto2 --timeout=120s >/dev/null
	undeploy
	kubectl delete node node2 >/dev/null
	node_kill node2
}

# NodeLocal DNSCache: a resolver on the node's address 169.254.20.10, which forwards names of the cluster to kube-dns. Its
# address is on lo, because a kernel may have no dummy links.
scenario_node_local() {
	on_node node1 ip address add 169.254.20.10/32 dev lo
	kubectl apply -f "$PWD/scripts/kubernetes/yaml/node-local.yaml" >/dev/null
	wait_for 180 "the node's resolver" pods_ready kube-system 1 k8s-app=node-local-dns
	cluster="cluster-dns = [\"$CLUSTER_DNS\", \"169.254.20.10\"]" deploy 1
	deployed
	mark
	cluster_names one/a 169.254.20.10:53
	cluster_names two/hostnet 169.254.20.10:53
	lookup one/a 169.254.20.10:53 A public.test $SEALED_ANSWER
	lookup two/hostnet-first 169.254.20.10:53 A public.test $SEALED_ANSWER
	expect_sealed "NodeLocal DNSCache"
	undeploy
	kubectl delete -f "$PWD/scripts/kubernetes/yaml/node-local.yaml" --timeout=120s >/dev/null
	on_node node1 ip address del 169.254.20.10/32 dev lo
}
