# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# shellcheck disable=SC2086,SC2154 # the variables of cluster.sh have no blanks
#
# Scenarios of kubernetes-test.sh for "Kubernetes policy" in docs/OPERATING.md: the built-in rules for the names of the
# cluster, rules for pods, and pods that opt out.

# policy_deploy TAG [OVERLAY [KUBERNETES [RULES]]]: applies deploy/kubernetes/OVERLAY (default: base). KUBERNETES are lines
# of the table [kubernetes], RULES the [[rule]] tables; there are no others.
policy_deploy() {
	local tag=$1 overlay=${2:-base} table=${3:-} rules=${4:-} dir=$state/deploy
	rm -rf "$dir"
	cp -r deploy/kubernetes "$dir"
	mkdir "$dir/test"
	{
		sed -n '1,/^\[\[rule\]\]/p' "$dir/base/sotto.toml" | grep -v -e '^cgroups' -e '^upstream' -e '^\[' -e '^#'
		printf 'upstream = ["%s#dns.test"]\nca-file = "/etc/sotto/ca.pem"\ncgroups = ["%s/node1/kubepods"]\n' \
			"$UPSTREAM_ADDRESS" "$(cluster_cgroup)"
		# The cgroup of a node in namespaces.
		printf '[kubernetes]\ncgroup-root = "%s/node1"\n%s\n%s\n' "$(cluster_cgroup)" "$table" "$rules"
	} >"$dir/test/sotto.toml"
	cp "$state/ca.pem" "$dir/test/"
	cat >"$dir/test/kustomization.yaml" <<-END
		apiVersion: kustomize.config.k8s.io/v1beta1
		kind: Kustomization
		namespace: sotto
		resources: [../$overlay]
		images:
		- {name: sotto, newName: localhost/sotto, newTag: "$tag"}
		- {name: sotto-kubernetes, newName: localhost/sotto-kubernetes, newTag: "1"}
		configMapGenerator:
		- {name: sotto, namespace: sotto, behavior: replace, files: [sotto.toml, ca.pem]}
	END
	kubectl kustomize "$dir/test" >"$state/rendered.yaml"
	! grep -q 'privileged: true' "$state/rendered.yaml" || die "the manifests contain a privileged container"
	kubectl apply -f "$state/rendered.yaml" >/dev/null
}

# policy_image: the image localhost/sotto-kubernetes:1, as the Dockerfile's target makes it.
policy_image() {
	local root=$state/root-policy
	mkdir -p "$root"
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$root/sotto-kubernetes" ./cmd/sotto-kubernetes
	make_image sotto-kubernetes:1 '["/sotto-kubernetes"]' "$root"
	rm -r "$root"
	import_images node1
}

# explain ARG…: prints what the running Sotto would do.
explain() { kubectl exec -n sotto "$(sotto_pod)" -c sotto -- /sotto explain "$@"; }

# expect_rule PATTERN ARG…: fails unless `sotto explain` prints a line that matches.
expect_rule() {
	local pattern=$1 out
	shift
	out=$(explain "$@") || die "sotto explain $*: $out"
	grep -q -e "$pattern" <<<"$out" || die "sotto explain $*: no line matches '$pattern': $out"
}

# pod_cgroup NAMESPACE/POD: prints the cgroup of its first container.
pod_cgroup() {
	local uid container
	uid=$(kubectl get pod -n "${1%/*}" "${1#*/}" -o jsonpath='{.metadata.uid}')
	container=$(kubectl get pod -n "${1%/*}" "${1#*/}" -o jsonpath='{.status.containerStatuses[0].containerID}')
	echo "/$(cluster_cgroup)/node1/kubepods/besteffort/pod$uid/${container##*/}"
}

# answers POD NAMESERVER NAME WANT: one query, as a condition for wait_for.
answers() { in_pod "$1" load --server "$2:53" --name "$3" --want "$4" --rate 30 --count 3; }

# The names of the cluster from every kind of pod, with nothing configured: kubelet says what they are.
scenario_policy_names() {
	local pod
	policy_deploy 1
	deployed
	kubectl logs -n sotto "$(sotto_pod)" -c sotto | grep 'names of the cluster go to its resolver' |
		grep -q 'domains=\[cluster.local\].*resolvers="\[10.96.0.10 fd96::a\]"' || die "the log does not name the cluster"
	expect_rule 'built in: cluster names)' web.one.svc.cluster.local --nameserver $CLUSTER_DNS
	expect_rule 'built in: cluster names asked elsewhere)' web.one.svc.cluster.local --nameserver 8.8.8.8
	expect_rule 'Rule *none matches' www.test --nameserver $CLUSTER_DNS
	# After the start Sotto cannot look into the kubelet's mount namespace any more.
	kubectl exec -n sotto "$(sotto_pod)" -c sotto -- /sotto reload >/dev/null || die "sotto reload failed"
	expect_rule 'built in: cluster names)' web.one.svc.cluster.local --nameserver $CLUSTER_DNS
	mark
	for pod in one/a two/b two/hostnet-first; do
		cluster_names $pod $CLUSTER_DNS:53
		lookup $pod $CLUSTER_DNS:53 A public.test $SEALED_ANSWER
	done
	for pod in two/hostnet:$PLAIN_ADDRESS two/default:$PLAIN_ADDRESS two/none:9.9.9.9; do
		lookup ${pod%:*} ${pod#*:}:53 A public.test $SEALED_ANSWER
		# Neither in plain nor to the upstream, which would answer REFUSED.
		lookup ${pod%:*} ${pod#*:}:53 A secret.cluster.local NXDOMAIN
		cluster_names ${pod%:*} $CLUSTER_DNS:53
	done
	# A cache on the node asks the cluster's resolver by the address of another service.
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Service
		metadata: {name: kube-dns-upstream, namespace: kube-system}
		spec: {clusterIP: 10.96.77.77, selector: {k8s-app: kube-dns}, ports: [{name: dns, port: 53, protocol: UDP, targetPort: 53}, {name: dns-tcp, port: 53, protocol: TCP, targetPort: 53}]}
	END
	wait_for 60 "the service" answers two/hostnet 10.96.77.77 web.one.svc.cluster.local 10.96.0.80
	cluster_names two/hostnet 10.96.77.77:53
	lookup two/hostnet 10.96.77.77:53 A public.test $SEALED_ANSWER
	kubectl delete service -n kube-system kube-dns-upstream >/dev/null
	expect_sealed "names of the cluster"
	undeploy
}

# A resolver on an address of the node's loopback interface, as NodeLocal DNSCache has one, which is also kubelet's clusterDNS.
scenario_policy_node_local() {
	local address=169.254.20.10 pod
	on_node node1 ip address add $address/32 dev lo
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: ConfigMap
		metadata: {name: node-local, namespace: kube-system}
		data:
		  Corefile: |
		    cluster.local:53 {
		      bind $address
		      forward . $CLUSTER_DNS {
		        force_tcp
		      }
		    }
		    .:53 {
		      bind $address
		      forward . 8.8.8.8
		    }
		---
		apiVersion: v1
		kind: Pod
		metadata: {name: node-local, namespace: kube-system}
		spec:
		  hostNetwork: true
		  dnsPolicy: Default
		  nodeSelector: {kubernetes.io/hostname: node1}
		  tolerations: [{operator: Exists}]
		  terminationGracePeriodSeconds: 0
		  containers:
		  - {name: coredns, image: "localhost/coredns:1", imagePullPolicy: Never, args: [-conf, /etc/coredns/Corefile], volumeMounts: [{name: config, mountPath: /etc/coredns}]}
		  volumes: [{name: config, configMap: {name: node-local}}]
	END
	wait_for 120 "the resolver on the node" answers one/a $address web.one.svc.cluster.local 10.96.0.80
	policy_deploy 1 base "cluster-dns = [\"$address\"]
service-cidr = [\"${SERVICES//,/\", \"}\"]"
	deployed
	mark
	for pod in one/a two/default two/hostnet; do
		lookup $pod $address:53 A web.one.svc.cluster.local 10.96.0.80
		lookup $pod $address:53 A node-local.test $SEALED_ANSWER
		lookup $pod $CLUSTER_DNS:53 A kubernetes.default.svc.cluster.local 10.96.0.1
	done
	expect_sealed "a resolver on the node"
	undeploy
	kubectl delete -n kube-system pod/node-local configmap/node-local --timeout=60s >/dev/null
	on_node node1 ip address delete $address/32 dev lo
}

# Rules for pods, and pods that opt out, all changed while queries are answered.
scenario_policy_pods() {
	policy_image
	policy_deploy 1 policy 'opt-out = "pods"' '
[[rule]]
pod = "two/none*"
name = "blocked.test"
use = "null"
[[rule]]
pod-label = "app=b,!trusted"
name = "labels.test"
use = "refuse"
[[rule]]
namespace-label = "stage=lab"
name = "lab.test"
use = "nxdomain"'
	deployed
	mark
	# Queries that no change below concerns.
	start_load public one/a --server $CLUSTER_DNS:53 --name '*.load.test' --want $SEALED_ANSWER --rate 60
	start_load other one/a --server 9.9.9.9:53 --name cached.test --want $SEALED_ANSWER --rate 60
	start_load cluster one/a --server $CLUSTER_DNS:53 --name kubernetes.default.svc.cluster.local --want 10.96.0.1 --rate 30
	lookup two/none 9.9.9.9:53 A blocked.test 0.0.0.0
	lookup two/default $PLAIN_ADDRESS:53 A blocked.test $SEALED_ANSWER
	expect_rule 'Pod *two/none$' blocked.test --workload "$(pod_cgroup two/none)"

	lookup two/b $CLUSTER_DNS:53 A labels.test REFUSED
	lookup one/a $CLUSTER_DNS:53 A labels.test $SEALED_ANSWER
	kubectl label pod -n two b trusted=yes >/dev/null
	wait_for 30 "the label" answers two/b $CLUSTER_DNS labels.test $SEALED_ANSWER
	kubectl label pod -n two b trusted- >/dev/null
	wait_for 30 "the label's removal" answers two/b $CLUSTER_DNS labels.test REFUSED
	note "labels of pods apply at once"

	lookup two/b $CLUSTER_DNS:53 A lab.test $SEALED_ANSWER
	kubectl label namespace two stage=lab >/dev/null
	wait_for 30 "the namespace's label" answers two/b $CLUSTER_DNS lab.test NXDOMAIN
	lookup one/a $CLUSTER_DNS:53 A lab.test $SEALED_ANSWER
	kubectl label namespace two stage- >/dev/null
	wait_for 30 "the removal of the namespace's label" answers two/b $CLUSTER_DNS lab.test $SEALED_ANSWER
	note "labels of namespaces apply at once"

	# A new pod is known before its first query.
	kubectl apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: none-new, namespace: two, labels: {app: b}}
		spec:
		  nodeSelector: {kubernetes.io/hostname: node1}
		  restartPolicy: Never
		  dnsPolicy: None
		  dnsConfig: {nameservers: [9.9.9.9]}
		  containers:
		  - name: main
		    image: localhost/busybox:1
		    imagePullPolicy: Never
		    command: [sh, -c, "load --server 9.9.9.9:53 --name labels.test --want REFUSED --rate 30 --count 3 && load --server 9.9.9.9:53 --name blocked.test --want 0.0.0.0 --rate 30 --count 3"]
	END
	wait_for 120 "the new pod" pod_phase two/none-new
	[[ $(kubectl get pod -n two none-new -o jsonpath='{.status.phase}') == Succeeded ]] || die "the new pod's first queries: $(kubectl logs -n two none-new)"
	kubectl delete pod -n two none-new --timeout=60s >/dev/null
	note "a new pod is known at its first query"
	expect_sealed "rules for pods"

	# The annotation opens the seal for one pod. The nameserver 8.8.8.8 has another answer than the upstream.
	kubectl annotate pod -n two default sotto/seal=off >/dev/null
	wait_for 30 "the annotation" answers two/default $PLAIN_ADDRESS open.test $PLAIN_ANSWER
	expect_rule 'built in: pods that opted out)' open.test --nameserver 8.8.8.8 --workload "$(pod_cgroup two/default)"
	lookup two/b $PLAIN_ADDRESS:53 A open.test $SEALED_ANSWER
	lookup two/none 9.9.9.9:53 A open.test $SEALED_ANSWER
	kubectl annotate pod -n two default sotto/seal- >/dev/null
	wait_for 30 "the annotation's removal" answers two/default $PLAIN_ADDRESS open.test $SEALED_ANSWER
	kubectl annotate namespace two sotto/seal=off >/dev/null
	kubectl annotate pod -n two b sotto/seal=on >/dev/null
	wait_for 30 "the namespace's annotation" answers two/hostnet $PLAIN_ADDRESS open.test $PLAIN_ANSWER
	lookup two/default $PLAIN_ADDRESS:53 A open.test $PLAIN_ANSWER
	lookup two/b $PLAIN_ADDRESS:53 A open.test $SEALED_ANSWER
	lookup one/a $PLAIN_ADDRESS:53 A open.test $SEALED_ANSWER
	note "annotations exempt exactly their pods"

	# Where the configuration does not allow it, the annotation does nothing.
	policy_deploy 2 policy 'opt-out = "off"'
	deployed
	mark
	lookup two/default $PLAIN_ADDRESS:53 A open.test $SEALED_ANSWER
	expect_sealed "annotations without opt-out"
	stop_loads
	kubectl annotate namespace two sotto/seal- >/dev/null
	kubectl annotate pod -n two b sotto/seal- >/dev/null
	undeploy
}
pod_phase() { kubectl get pod -n "${1%/*}" "${1#*/}" -o jsonpath='{.status.phase}' | grep -q -e Succeeded -e Failed; }

# sotto-kubernetes with an API server of its own, which is restarted, and the role of the manifests.
scenario_policy_agent() {
	local out
	go test -c -o "$state/agent.test" ./internal/kubernetes/agent
	out=$(cd internal/kubernetes/agent && in_room env TMPDIR=/tmp SOTTO_KUBE_APISERVER="$state/bin/kube-apiserver" \
		"$state/agent.test" -test.run '^TestRun$' -test.v 2>&1) || die "TestRun: $out"
	grep -q -e '--- PASS: TestRun' <<<"$out" || die "TestRun did not run: $out"
	note "$(grep -e '--- PASS' <<<"$out")"
}
