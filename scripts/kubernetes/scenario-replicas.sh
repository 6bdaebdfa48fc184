# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2120 # variables and arguments that this file shares with kubernetes-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# Scenario of kubernetes-test.sh: the plain forwarder of deploy/kubernetes/forwarder, scaled and replaced under load.

# forwarder_apply [COMPONENT [LINES]]: applies the forwarder with the image localhost/sotto:1 and a configuration for this cluster.
# LINES are further lines of its kustomization.
forwarder_apply() {
	local dir=$state/forwarder component=${1:-} lines=${2:-}
	rm -rf "$dir"
	cp -r deploy/kubernetes "$dir"
	mkdir "$dir/test"
	{
		printf 'upstream = ["%s#dns.test"]\nca-file = "/etc/sotto/ca.pem"\n' $UPSTREAM_ADDRESS
		grep -v '^upstream' "$dir/forwarder/sotto.toml"
	} >"$dir/test/sotto.toml"
	cp "$state/ca.pem" "$dir/test/"
	cat >"$dir/test/kustomization.yaml" <<-END
		apiVersion: kustomize.config.k8s.io/v1beta1
		kind: Kustomization
		namespace: sotto-forwarder
		resources: [../forwarder]
		components: [../forwarder/network-policy${component:+, $component}]
		images: [{name: sotto, newName: localhost/sotto, newTag: "1"}]
		configMapGenerator:
		- {name: sotto-forwarder, behavior: replace, files: [sotto.toml, ca.pem]}
		${lines//$'\t'/}
	END
	kubectl kustomize "$dir/test" >"$state/forwarder.yaml"
	kubectl apply -f "$state/forwarder.yaml" >/dev/null
}

forwarder_scale() {
	kubectl scale -n sotto-forwarder deployment/sotto-forwarder --replicas="$1" >/dev/null
	wait_for 300 "$1 pods of the forwarder" pods_ready sotto-forwarder "$1"
	note "$1 pods"
}

# forwarder_load NAME [RATE]: load of the Service from fresh sockets, and over sockets that stay connected, so many that each pod
# has some.
forwarder_load() {
	start_load "replicas-$1" "one/$(client_on node1)" --server "$forwarder:53" --name '*.load.test' --want $SEALED_ANSWER --rate "${2:-220}" \
		--ways fresh,connected,connected,connected,connected,connected,connected,tcp,tcp,tcp,tcp
}

# expect_nothing_lost: stops the loads, and fails if a query was not answered or got a wrong answer. A connection over TCP to a
# pod that ends is closed, between two queries.
expect_nothing_lost() {
	local reports=$state/replicas.json files
	files=("${loads[@]%% *}")
	stop_loads lossy >/dev/null
	files=("${files[@]/#/$state/load-}")
	grep -h '^{' "${files[@]}" >"$reports"
	rm "${files[@]}"
	jq -se 'length > 0 and all(.[]; .lost == 0 and .wrong == 0 and .sent > 0 and .answered == .sent and (.way == "tcp" or .reset == 0))' \
		"$reports" >/dev/null || { cat "$reports" >&2 && forwarder_state && die "$1: queries were lost"; }
	note "$1: $(jq -sr 'group_by(.way)[] | "\(.[0].way) \(map(.answered) | add) of \(map(.sent) | add) answered, \(map(.reset) | add) connections closed, slowest \(map(.max_ms) | max) ms"' \
		"$reports" | paste -sd ';')"
}

forwarder_state() {
	kubectl get pods -n sotto-forwarder -o wide >&2 || true
	kubectl logs -n sotto-forwarder -l app.kubernetes.io/component=forwarder --tail 30 --prefix >&2 || true
}

# Scaled 1 → 4 → 1, then replaced by a rolling update, under load: nothing is lost.
scenario_replicas() {
	local forwarder
	forwarder_apply
	forwarder_scale 1
	forwarder=$(kubectl get service -n sotto-forwarder sotto-forwarder -o jsonpath='{.spec.clusterIP}')
	mark
	forwarder_load before
	forwarder_scale 4
	sleep 5
	forwarder_load after
	sleep 5
	note "queries per pod: $(forwarder_queries)"
	forwarder_scale 1
	sleep 5
	expect_nothing_lost "scaled 1, 4, 1"
	forwarder_scale 2
	forwarder_load rollout
	kubectl rollout restart -n sotto-forwarder deployment/sotto-forwarder >/dev/null
	kubectl rollout status -n sotto-forwarder deployment/sotto-forwarder --timeout=300s >/dev/null
	wait_for 120 "the old pods' end" pods_ready sotto-forwarder 2
	sleep 5
	expect_nothing_lost "rolling update"
	expect_sealed "the forwarder"
	kubectl delete namespace sotto-forwarder --timeout=120s >/dev/null
}

# forwarder_queries: prints how many queries each pod has answered.
forwarder_queries() {
	local pod
	for pod in $(kubectl get pods -n sotto-forwarder -o name); do
		kubectl exec -n sotto-forwarder "$pod" -- /sotto status --json | jq .queries.total
	done | xargs
}

# The chart and kustomize render the same objects, and the API server accepts all of them. PodMonitor is a resource of the
# Prometheus operator, whose definition is in its module.
scenario_manifests() {
	local dir=$state/rendered crd name
	mkdir -p "$dir"
	(cd deploy/test && SOTTO_RENDER=$dir GOFLAGS="${GOFLAGS:-} -p=2" nice go test -count=1 ./...) || die "the manifests differ"
	crd=$(definitions)/monitoring.coreos.com_podmonitors.yaml
	kubectl apply --server-side -f "$crd" >/dev/null
	for name in sotto sotto-forwarder; do
		kubectl create namespace "$name" >/dev/null 2>&1 || true
		kubectl label namespace "$name" --overwrite pod-security.kubernetes.io/enforce="$([[ $name == sotto ]] && echo privileged || echo restricted)" >/dev/null
		kubectl apply --dry-run=server --warnings-as-errors -f "$dir/$name.yaml" || die "the API server refuses $dir/$name.yaml"
		kubectl delete namespace "$name" >/dev/null
	done
	kubectl kustomize "$PWD/deploy/kubernetes/forwarder" >/dev/null
	kubectl delete -f "$crd" >/dev/null
}
