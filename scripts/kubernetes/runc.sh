#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# runc for a node in namespaces. Its cgroup2 may have no controllers for cpu, memory and pids (they are bound to v1
# hierarchies): the resource limits are removed from the container's specification. It gets the cgroup that a kubelet with
# QoS cgroups would give it, and not the capabilities in NODE_MISSING, which this machine itself does not have.
bundle='' create='' process='' previous=''
for word in "$@"; do
	case $previous in
	--bundle) bundle=$word ;;
	--process | -p) process=$word ;;
	esac
	case $word in
	create | run) create=1 ;;
	update) exit 0 ;;
	esac
	previous=$word
done
if [ -n "$create" ] && [ -n "$bundle" ]; then
	jq --arg cgroup "$NODE_CGROUP" --arg missing "$NODE_MISSING" '
		(.annotations["io.kubernetes.cri.sandbox-log-directory"] // "") as $logs |
		(.annotations["io.kubernetes.cri.sandbox-uid"] // ($logs | split("_") | last) // "") as $uid |
		(.linux.cgroupsPath | split("/") | last) as $id |
		($missing | split(" ")) as $missing |
		.linux.resources |= {devices: .devices} |
		del(.linux.intelRdt) | del(.process.oomScoreAdj) |
		if .process.capabilities then .process.capabilities |= map_values(. - $missing) else . end |
		if ($uid | length) > 8 then .linux.cgroupsPath = "/\($cgroup)/kubepods/besteffort/pod\($uid)/\($id)" else . end
	' "$bundle/config.json" >"$bundle/config.json.new" && cat "$bundle/config.json.new" >"$bundle/config.json"
	rm -f "$bundle/config.json.new"
fi
if [ -n "$process" ]; then
	jq --arg missing "$NODE_MISSING" '($missing | split(" ")) as $missing |
		if .capabilities then .capabilities |= map_values(. - $missing) else . end' "$process" >"$process.new" &&
		cat "$process.new" >"$process"
	rm -f "$process.new"
fi
exec runc "$@"
