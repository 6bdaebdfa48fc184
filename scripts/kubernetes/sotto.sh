# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that this file shares with kubernetes-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# Sotto on the cluster of cluster.sh, and the load and the captures of its scenarios. Source this file after cluster.sh.

# deploy TAG [ON-EXIT [SETTINGS [PATCH]]]: applies deploy/kubernetes/$overlay (default: base) with the image localhost/sotto:TAG and a
# configuration for this cluster. SETTINGS are further lines of sotto.toml; without a line "cgroups" the pods of the first node
# are sealed. PATCH is a JSON patch of the DaemonSet. $namespace may name another namespace, $image another image, $node
# another node; $cluster has lines of the table [kubernetes].
deploy() {
	local tag=$1 exit=${2:-strict} settings=${3:-} patch=${4:-} dir=$state/deploy
	rm -rf "$dir"
	cp -r deploy/kubernetes "$dir"
	mkdir "$dir/test"
	[[ $settings == *cgroups* ]] || settings+=$'\n'"cgroups = [\"$(cluster_cgroup)/node1/kubepods\"]"
	{
		grep -v -e '^cgroups' -e '^upstream' -e '^#' "$dir/base/sotto.toml"
		printf 'upstream = ["%s#dns.test"]\nca-file = "/etc/sotto/ca.pem"\non-exit = "%s"\n%s\n' $UPSTREAM_ADDRESS "$exit" "$settings"
		# The cgroup of a node in namespaces.
		printf '[kubernetes]\ncgroup-root = "%s/%s"\n%s\n' "$(cluster_cgroup)" "${node:-node1}" "${cluster:-}"
	} >"$dir/test/sotto.toml"
	cp "$state/ca.pem" "$dir/test/"
	cat >"$dir/test/kustomization.yaml" <<-END
		apiVersion: kustomize.config.k8s.io/v1beta1
		kind: Kustomization
		namespace: ${namespace:-sotto}
		resources: [../${overlay:-base}]
		images: [{name: sotto, newName: ${image:-localhost/sotto}, newTag: "$tag"}]
		configMapGenerator:
		- {name: sotto, namespace: sotto, behavior: replace, files: [sotto.toml, ca.pem]}
	END
	[[ -z $patch ]] || printf 'patches:\n- target: {kind: DaemonSet}\n  patch: |-\n    %s\n' "$patch" >>"$dir/test/kustomization.yaml"
	# It renders, and contains what the documentation promises.
	kubectl kustomize "$dir/test" >"$state/rendered.yaml"
	! grep -q 'privileged: true' "$state/rendered.yaml" || die "the manifests contain a privileged container"
	kubectl apply -f "$state/rendered.yaml" >/dev/null
}

# deployed: waits until the DaemonSet is updated and exactly one pod per node is left.
deployed() {
	kubectl rollout status -n sotto daemonset/sotto --timeout=300s >/dev/null || { sotto_state && die "the rolling update failed"; }
	wait_for 120 "the old pod's end" pods_ready sotto "${1:-1}"
}

sotto_state() {
	kubectl get pods -n sotto -o wide >&2 || true
	kubectl describe pods -n sotto | tail -n 40 >&2 || true
	kubectl logs -n sotto -l app.kubernetes.io/component=node --tail 30 >&2 || true
}

sotto_pod() { kubectl get pods -n sotto -o jsonpath='{.items[0].metadata.name}'; }
sotto_uid() { kubectl get pods -n sotto -o jsonpath='{.items[0].metadata.uid}'; }

# sotto_pid [NODE]: prints the PID of Sotto's process as the node's own processes see it.
sotto_pid() { on_node "${1:-node1}" pgrep -of '^/sotto run'; }

# undeploy: deletes the DaemonSet, and waits for the end of its pods.
undeploy() {
	kubectl delete -n sotto daemonset/sotto --timeout=120s >/dev/null
	wait_for 120 "the pods' end" no_sotto_pods
}
no_sotto_pods() { [[ -z $(kubectl get pods -n sotto -o name) ]]; }

# down_on_node: what docs/OPERATING.md says to remove what a DaemonSet left, with the binary of the image.
down_on_node() {
	on_node node1 "$PWD/bin/sotto" down || die "sotto down failed"
}

# leftovers: prints what Sotto has on the node. An empty directory of bpffs and the lock of the records stay.
leftovers() {
	# shellcheck disable=SC2016 # expanded on the node
	on_node node1 sh -c 'find /sys/fs/bpf -mindepth 2 -maxdepth 2; ip -o link | grep -o "sotto[0-9]*"; ls /run/netns | grep sotto;
		ip route | grep -E "198\.1[89]\."; ls -A /run/sotto | grep -vx lock' 2>/dev/null || true
}

# ---- captures --------------------------------------------------------------------------------------------

# packets FILTER: prints the number of packets on the LAN since the start.
packets() { tcpdump -nr "$state/lan.pcap" "$1" 2>/dev/null | wc -l; }
mark() { marked=$(packets 'port 53'); }

# expect_sealed WHAT: fails if a plain packet left the node since mark.
expect_sealed() {
	local now
	now=$(packets 'port 53')
	((now == marked)) || {
		tcpdump -nr "$state/lan.pcap" 'port 53' 2>/dev/null | tail -n "$((now - marked))" | head -n 20 >&2
		die "$1: $((now - marked)) plain packets left the node"
	}
	note "$1: 0 plain packets left the node"
}

# ---- clients ---------------------------------------------------------------------------------------------

# lookup POD NAMESERVER TYPE NAME WANT: asks once in each way, and fails unless each answer has WANT.
lookup() {
	local out
	out=$(in_pod "$1" load --server "$2" --type "$3" --name "$4" --want "$5" --rate 30 --count 3 2>&1) ||
		die "$1, $2, $3 $4: want $5: $out"
}

# start_load NAME POD ARG…: starts the load generator in a pod.
start_load() {
	local name=$1 pod=$2
	shift 2
	in_pod "$pod" rm -f "/tmp/stop-$name"
	in_pod "$pod" load --until "/tmp/stop-$name" "$@" >"$state/load-$name" 2>&1 &
	loads+=("$name $pod $!")
	sleep 1
	[[ -d /proc/$! ]] || { cat "$state/load-$name" >&2 && die "the load $name did not start"; }
}

# stop_loads [lossy]: stops all, and fails if one of them lost a query, unless "lossy".
stop_loads() {
	local line name pod pid failed=
	for line in "${loads[@]}"; do
		read -r name pod pid <<<"$line"
		kill -0 "$pid" 2>/dev/null || die "the load $name ended early: $(cat "$state/load-$name")"
		in_pod "$pod" touch "/tmp/stop-$name"
	done
	for line in "${loads[@]}"; do
		read -r name pod pid <<<"$line"
		wait "$pid" || failed+=" $name"
		while read -r line; do note "$name: $line"; done <"$state/load-$name"
	done
	loads=()
	[[ -z $failed || ${1:-} == lossy ]] || { sotto_state && die "queries were lost:$failed"; }
}
loads=()

# start_loads: 200 queries per second for names outside, to the cluster's resolver and to another nameserver, and 50 for
# a name of the cluster, from pods that stay on a drained node.
start_loads() {
	start_load public one/daemonset/client --server $CLUSTER_DNS:53 --name '*.load.test' --want $SEALED_ANSWER --rate 120
	start_load other one/daemonset/client --server 9.9.9.9:53 --name 'cached.test' --want $SEALED_ANSWER --rate 80
	[[ ${1:-} == no-cluster ]] ||
		start_load cluster one/daemonset/client --server $CLUSTER_DNS:53 --name kubernetes.default.svc.cluster.local --want 10.96.0.1 --rate 50
}
