# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# A Docker engine in a sandbox, for the tests. Source this file after lib.sh and lib-containers.sh. The functions use $work, a
# temporary directory, and $cgroup, a name for the parent cgroup of the containers.

# shellcheck disable=SC2034 # used by the scripts
docker_packages=(
	"dockerd docker.io"
	"python3 python3" # serves the module cache to docker build
)

work=${work:-} cgroup=${cgroup:-}

readonly BRIDGE=172.30.99.1
export COMPOSE_PROJECT_NAME=sotto-test

# ---- images ----------------------------------------------------------------------------------------------

# import_golang: imports an image with busybox and this machine's Go, under the name of the Dockerfile's base image.
import_golang() {
	local name root=$work/golang
	name=$(sed -n 's/^FROM .*\(golang:[^ ]*\) AS go$/\1/p' Dockerfile)
	[[ -n $name ]] || die "no golang base image in the Dockerfile"
	busybox_root "$root"
	install -D /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
	tar -C "$root" -cf "$root.tar" .
	tar -C "$(go env GOROOT)" --transform 's,^,usr/local/go/,' -rf "$root.tar" bin go.env lib pkg src VERSION
	docker import -c 'ENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local' "$root.tar" "$name" >/dev/null
	rm -f "$root.tar"
	note "$name from this machine's Go and busybox"
}

# ---- engine ----------------------------------------------------------------------------------------------

# runtime: prints the name of the OCI runtime. If this machine itself lacks capabilities (a container, a hardened VM), runc
# refuses to start privileged containers; a wrapper then removes these capabilities from the request.
runtime() {
	local missing
	missing=$(comm -23 <(setpriv --list-caps | sort) <(setpriv --dump | sed -n 's/^Capability bounding set: //p' | tr , '\n' | sort))
	[[ -n $missing ]] || { echo runc && return; }
	cat >"$work/runc" <<-END
		#!/usr/bin/python3
		import json, os, sys
		missing = {"CAP_" + name.upper() for name in """$missing""".split()}
		def bound(path, process):
		    with open(path) as f:
		        config = json.load(f)
		    held = process(config).get("capabilities") or {}
		    for kind in held:
		        held[kind] = [cap for cap in held[kind] or [] if cap not in missing]
		    with open(path, "w") as f:
		        json.dump(config, f)
		def argument(name): return sys.argv[sys.argv.index(name) + 1]
		if "--bundle" in sys.argv:
		    bound(os.path.join(argument("--bundle"), "config.json"), lambda config: config["process"])
		if "--process" in sys.argv: # docker exec, and health checks
		    bound(argument("--process"), lambda config: config)
		os.execvp("runc", ["runc"] + sys.argv[1:])
	END
	chmod 755 "$work/runc"
	echo bounded
	note "this machine lacks $(xargs <<<"$missing"); privileged containers run without" >&2
}

start_engine() {
	local runtime=()
	[[ $(runtime) == runc ]] || runtime=(--add-runtime "bounded=$work/runc" --default-runtime bounded)
	# cgroupfs and a separate parent cgroup, so that leftovers of the engine can be found.
	dockerd --data-root "$work/data" --exec-root /run/docker --pidfile /run/dockerd.pid --host unix:///run/docker.sock \
		--bip $BRIDGE/24 --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup" \
		--default-cgroupns-mode host "${runtime[@]}" >"$work/dockerd.log" 2>&1 &
	engine=$!
	# Not in a parent of the containers' cgroups, so that it is a workload of its own.
	mkdir -p "$(cgroup2)/$cgroup/engine"
	echo "$engine" >"$(cgroup2)/$cgroup/engine/cgroup.procs"
	export DOCKER_HOST=unix:///run/docker.sock
	wait_for 60 "dockerd (see $work/dockerd.log)" docker version
	note "$(docker version --format 'client {{.Client.Version}}, engine {{.Server.Version}}'), $(compose version --short)"
}

# compose ARG…: Debian 12 has Compose 1, which supports neither `cgroup: host`, which this engine uses for all containers,
# nor service `watch`.
compose() {
	if docker compose version >/dev/null 2>&1; then
		docker compose "$@"
	elif [[ $(docker-compose version --short) == 1.* ]]; then
		sed -e '/^ *cgroup: host$/d' -e '/^  watch:$/,/^$/d' compose.yaml | docker-compose --project-directory . -f - "$@"
	else
		docker-compose "$@"
	fi
}

# serve_modules: serves this machine's module cache to docker build, at http://$BRIDGE:8080, until stop "$proxy".
serve_modules() {
	python3 -m http.server --bind $BRIDGE --directory "$(go env GOMODCACHE)/cache/download" 8080 >/dev/null 2>&1 &
	proxy=$!
}

# download_sbom_tool: downloads the modules of the tool that the Dockerfile builds.
download_sbom_tool() {
	go list -C deploy/packages -deps github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod >/dev/null
	go mod download
}
