# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # variables that this file shares with kubernetes-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# Scenario of kubernetes-test.sh: the forwarder with deploy/kubernetes/forwarder/monitoring. Prometheus' operator, Prometheus and
# its adapter are the real ones.

build_monitoring() {
	local operator=github.com/prometheus-operator/prometheus-operator/cmd
	# Debian's Prometheus does not find pods.
	prometheus_binary=$(build_cached prometheus "" github.com/prometheus/prometheus/cmd/prometheus remove_all_sd,enable_kubernetes_sd)
	adapter_binary=$(build_cached adapter "" sigs.k8s.io/prometheus-adapter/cmd/adapter)
	operator_binary=$(build_cached operator "" $operator/operator)
	reloader_binary=$(build_cached operator "" $operator/prometheus-config-reloader)
}

# command_image NAME FILE: the image localhost/NAME:1 with FILE as its command.
command_image() {
	local root=$state/root-$1
	mkdir -p "$root"/{bin,tmp}
	cp "$2" "$root/bin/$1"
	make_image "$1:1" "[\"/bin/$1\"]" "$root"
	rm -r "$root"
}

# monitoring_up: starts Prometheus' operator, Prometheus and the adapter, with the rule of adapter-rule.yaml. That file has the
# values of a Helm chart; the program's own configuration is what they have under rules.custom.
monitoring_up() {
	local version
	build_monitoring
	command_image prometheus "$prometheus_binary"
	command_image operator "$operator_binary"
	command_image prometheus-config-reloader "$reloader_binary"
	command_image adapter "$adapter_binary"
	import_images node1
	kubectl apply --server-side -f "$(definitions)" >/dev/null
	kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null
	kubectl create namespace monitoring >/dev/null
	{
		echo rules:
		sed -n '/^  custom:/,$ { /^  custom:/d; s/^  //p }' deploy/kubernetes/forwarder/monitoring/adapter-rule.yaml
	} >"$state/adapter.yaml"
	kubectl create configmap -n monitoring adapter --from-file=config.yaml="$state/adapter.yaml" >/dev/null
	# v0.308.1 of the module is v3.8.1 of the program.
	version=$(cd scripts/kubernetes/prometheus && go list -m -f '{{ .Version }}' github.com/prometheus/prometheus | sed 's/^v0\.\([0-9]\)0*/v\1./')
	sed "s/VERSION/$version/" scripts/kubernetes/yaml/monitoring.yaml >"$state/monitoring.yaml"
	kubectl apply -f "$state/monitoring.yaml" >/dev/null
	wait_for 180 "Prometheus, its operator and its adapter" pods_ready monitoring 3
}

# definitions: prints the directory of the custom resources of Prometheus' operator, in its module.
definitions() {
	(cd scripts/kubernetes/operator && go list -m -f '{{ .Dir }}/example/prometheus-operator-crd' github.com/prometheus-operator/prometheus-operator)
}

autoscaler_value() { kubectl get hpa -n sotto-forwarder sotto-forwarder -o jsonpath="{.status.currentMetrics[0].pods.current.averageValue}"; }
autoscaler_state() {
	kubectl get pods -n monitoring -o wide >&2 || true
	kubectl describe hpa -n sotto-forwarder >&2 || true
	kubectl logs -n monitoring -l app=adapter --tail 20 >&2 || true
	kubectl logs -n monitoring -l app=operator --tail 20 >&2 || true
	kubectl get --raw /apis/custom.metrics.k8s.io/v1beta1 >&2 || true
	forwarder_state
}

# autoscaler_wait CONDITION…: wait_for, which prints the state of the autoscaler if it fails.
autoscaler_wait() { (wait_for "$@") || { autoscaler_state && die "the autoscaler failed"; }; }

# autoscaled COUNT: waits until the autoscaler has made the forwarder so many pods.
autoscaled() {
	autoscaler_wait 400 "$1 pods of the forwarder" pods_ready sotto-forwarder "$1"
	note "$1 pods; the autoscaler saw $(autoscaler_value) queries/s per pod"
}

# The autoscaler makes 4 pods of 1 when the load rises, and 1 of 4 when it falls. Only its thresholds are not those of the
# manifests: 60 queries/s instead of 5,000 per pod, and 15 s instead of 300 s before it removes pods.
scenario_autoscaler() {
	local forwarder steady
	monitoring_up
	forwarder_apply ../forwarder/monitoring '
	patches:
	- target: {kind: HorizontalPodAutoscaler}
	  patch: |-
	    - {op: replace, path: /spec/minReplicas, value: 1}
	    - {op: replace, path: /spec/maxReplicas, value: 4}
	    - {op: replace, path: /spec/metrics/0/pods/target/averageValue, value: "60"}
	    - {op: replace, path: /spec/behavior/scaleDown/stabilizationWindowSeconds, value: 15}
	    - {op: replace, path: /spec/behavior/scaleDown/policies/0/periodSeconds, value: 15}'
	forwarder=$(kubectl get service -n sotto-forwarder sotto-forwarder -o jsonpath='{.spec.clusterIP}')
	autoscaled 1
	mark
	forwarder_load steady 40
	steady=("${loads[@]}") loads=()
	autoscaler_wait 180 "a metric" metric_at_least 20
	forwarder_load peak 220
	autoscaled 4
	sleep 20
	note "queries per pod: $(forwarder_queries)"
	expect_nothing_lost "scaled out by the autoscaler"
	loads=("${steady[@]}")
	autoscaled 1
	sleep 5
	expect_nothing_lost "scaled in by the autoscaler"
	expect_sealed "the forwarder"
	kubectl get events -n sotto-forwarder --field-selector involvedObject.kind=HorizontalPodAutoscaler,reason=SuccessfulRescale \
		-o custom-columns=M:.message --no-headers | while read -r line; do note "$line"; done
	# The API of the adapter first: without it no namespace can be deleted.
	kubectl delete -f "$state/monitoring.yaml" --timeout=120s >/dev/null
	kubectl delete namespace sotto-forwarder monitoring --timeout=180s >/dev/null
	kubectl delete -f "$(definitions)" >/dev/null
}
metric_at_least() {
	local value
	value=$(autoscaler_value)
	[[ -n $value ]] && awk -v v="$value" -v min="$1" 'BEGIN { if (v ~ /m$/) v /= 1000; exit v < min }'
}
