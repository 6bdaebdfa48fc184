#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests what scripts/docker-test.sh does not, with a real engine, BuildKit and Compose 2: builds the image for amd64 and arm64,
# and runs service `watch` of compose.yaml: a change of a source file replaces the running program. Compose and buildx are
# downloaded from Debian 13 if this machine lacks them; they are not installed. Not part of scripts/test.sh.
#
#   sudo ./scripts/docker-watch-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-containers.sh
. scripts/lib-docker.sh
. scripts/lib-release.sh

readonly PLUGINS=usr/libexec/docker/cli-plugins

# fetch_plugins: provides docker compose and docker buildx in $work/docker, a configuration directory of the client.
fetch_plugins() {
	mkdir -p "$work/docker/cli-plugins"
	export DOCKER_CONFIG=$work/docker
	if ! docker buildx version >/dev/null 2>&1 || ! docker compose watch --help >/dev/null 2>&1; then
		fetch_from trixie "$work/plugins" docker-compose docker-buildx
		cp "$work/plugins/$PLUGINS"/* "$work/docker/cli-plugins/"
	fi
	note "compose $(docker compose version --short), $(docker buildx version)"
}

# test_platforms: cross-builds with BuildKit. The arm64 image runs under emulation, if the machine has binfmt_misc for it.
test_platforms() {
	local arch
	say "docker build --platform, with BuildKit"
	for arch in amd64 arm64; do
		docker build --quiet --platform linux/$arch -t "sotto:$arch" --build-arg GOPROXY=http://$BRIDGE:8080 --build-arg GOSUMDB=off \
			--build-arg VERSION=platform-test . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2 && die "docker build for $arch failed"; }
		[[ $(docker image inspect -f '{{.Os}}/{{.Architecture}}' "sotto:$arch") == linux/$arch ]] || die "the image is not for $arch"
		docker create --platform linux/$arch --name files "sotto:$arch" >/dev/null
		docker cp files:/sotto "$work/sotto-$arch" >/dev/null
		docker rm files >/dev/null
		note "linux/$arch: $(go version -m "$work/sotto-$arch" | sed -n 's/^.*build\tGOARCH=/program for /p')"
		[[ $(go version -m "$work/sotto-$arch") == *GOARCH=$arch* ]] || die "the program in the image is not for $arch"
	done
}

# test_release_image: the image that scripts/release.sh makes without an engine has the settings of the Dockerfile's.
test_release_image() {
	local settings='{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{json .Config.Healthcheck}} {{json .Config.ExposedPorts}}'
	say "the image of a release"
	"$work/image" --version 0.0.0 --arch amd64 --binary "$work/sotto-amd64" --sbom go.sum --config deploy/docker/sotto.toml --out "$work/image.tar"
	docker load -i "$work/image.tar" >/dev/null
	note "$(docker run --rm sotto:0.0.0 version)"
	[[ $(docker image inspect -f "$settings" sotto:0.0.0) == "$(docker image inspect -f "$settings" sotto:amd64)" ]] ||
		{ docker image inspect -f "$settings" sotto:0.0.0 sotto:amd64 >&2 && die "the two images have different settings"; }
}

# test_watch: changes a file of a copy of the tree, and waits for the new program.
test_watch() {
	local tree=$work/tree container saved
	say "docker compose watch"
	mkdir "$tree"
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$tree" -xf -
	cd "$tree"
	export SOTTO_FLAGS="--upstream $UPSTREAM --ca-file /ca/ca.pem" GOPROXY=http://$BRIDGE:8080 GOSUMDB=off
	docker compose up -d watch >"$work/watch.log" 2>&1 || { cat "$work/watch.log" >&2 && die "docker compose up watch failed"; }
	wait_for 60 "an answer" serves
	rm -f "$work/watch.log"
	docker compose --profile watch watch --no-up watch >"$work/watch.log" 2>&1 &
	watch=$!
	wait_for 30 "compose watch (see $work/watch.log)" grep -qi 'watch' "$work/watch.log"
	sleep 2 # it prints nothing when its watches are in place
	dig +time=3 +tries=1 -p 11222 @127.0.0.1 before.example | grep -q 'status: NOERROR' || die "no answer before the change"
	container=$(docker compose --profile watch ps -q watch)
	[[ $(docker exec "$container" /sotto version) != *saved-change* ]] || die "the program has the change already"
	sed -i 's/^var version = ""$/var version = "saved-change"/' cmd/sotto/version.go
	saved=$SECONDS
	wait_for 1200 "the changed program (see $work/watch.log)" changed
	note "a saved file: the new program answers after $((SECONDS - saved)) s: $(docker exec "$(docker compose --profile watch ps -q watch)" /sotto version)"
	expect_answer "after the change" dig +time=3 +tries=1 -p 11222 @127.0.0.1 after.example A
	stop $watch
	unset GOPROXY GOSUMDB SOTTO_FLAGS
	docker compose --profile watch down --volumes >/dev/null 2>&1
	cd - >/dev/null
}
serves() { dig +time=1 +tries=1 -p 11222 @127.0.0.1 ready.example | grep -q 'status: NOERROR'; }
changed() { docker exec "$(docker compose --profile watch ps -q watch)" /sotto version | grep -q saved-change && serves; }

inside() {
	work=$1 cgroup=$2
	export DOCKER_CONFIG=$work/docker DOCKER_BUILDKIT=1
	say "container engine"
	start_engine
	import_golang
	make_lan
	docker volume create --label com.docker.compose.project=sotto-test --label com.docker.compose.volume=ca sotto-test_ca >/dev/null
	cp "$work/ca.pem" "$work/data/volumes/sotto-test_ca/_data/ca.pem"
	serve_modules
	test_watch
	test_platforms
	test_release_image
	stop "$proxy"
	say "stop the engine"
	stop "$engine" 30
}

if [[ ${1:-} == inside ]]; then
	inside "$2" "$3"
	exit
fi
need_root
install_missing "${docker_packages[@]}" "${container_packages[@]}"
install_missing "docker docker-cli" # a separate package since Debian 13
ensure_go
download_sbom_tool
build
work=$(mktemp -d /var/tmp/sotto-watch.XXXXXX)
defer rm -rf --one-file-system "$work"
defer remove_cgroups "sotto-watch-$$"
packaging_tool image ./image >/dev/null
fetch_plugins
sandbox_pid bash "$0" inside "$work" "sotto-watch-$$"
say "docker-watch-test: passed in $SECONDS s"
