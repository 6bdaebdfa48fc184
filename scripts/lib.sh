# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Functions shared by the scripts. Source this file after `set -euo pipefail` from the root of the tree. The functions
# print what they install before they install it. The EXIT trap removes everything else that they create.

# The oldest Go that downloads the toolchain named in go.mod itself.
readonly GO_TOOLCHAINS=1.21

say() { printf '== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# defer COMMAND…: runs COMMAND at exit, also after a failure or a signal, in reverse order. Arguments are quoted.
_deferred=()
defer() { _deferred+=("$(printf '%q ' "$@")"); }
run_deferred() {
	local status=$? i
	trap - EXIT
	set +e
	for ((i = ${#_deferred[@]} - 1; i >= 0; i--)); do eval "${_deferred[i]}"; done
	exit "$status"
}
trap run_deferred EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# wait_for SECONDS WHAT COMMAND…: waits until COMMAND succeeds; on timeout, exits with an error that names WHAT.
wait_for() {
	local limit=$1 what=$2 end
	shift 2
	end=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || die "timed out after $limit s waiting for $what"
		sleep 0.1
	done
}

# stop PID [SECONDS]: stops a child process and waits until it has exited.
stop() {
	local pid=$1 limit=${2:-10} end
	kill -TERM "$pid" 2>/dev/null || return 0
	end=$((SECONDS + limit))
	while kill -0 "$pid" 2>/dev/null; do
		if ((SECONDS >= end)); then
			kill -KILL "$pid" 2>/dev/null
			break
		fi
		sleep 0.1
	done
	wait "$pid" 2>/dev/null || true
}

need_root() {
	[[ $(id -u) == 0 ]] || die "eBPF, cgroups and network namespaces need root; run: sudo $0"
	# sudo and CI may not set HOME, which Go needs for its caches.
	[[ -n ${HOME:-} ]] || { HOME=$(getent passwd 0 | cut -d: -f6) && export HOME; }
}

# ---- Debian packages -------------------------------------------------------------------------------------

_apt_updated=
apt_update() {
	[[ -z $_apt_updated ]] || return 0
	command -v apt-get >/dev/null || die "apt-get not found; install these packages manually: $*"
	say "apt-get update"
	apt-get -qq update || die "apt-get update failed; see its output above"
	_apt_updated=1
}

# no_services COMMAND…: runs COMMAND with a policy-rc.d that prevents packages from starting services. Afterwards the
# previous policy-rc.d is restored.
readonly POLICY=/usr/sbin/policy-rc.d
_policy_saved=
policy_restore() {
	[[ -n $_policy_saved ]] || return 0
	rm -f "$POLICY"
	[[ $_policy_saved == none ]] || mv "$_policy_saved" "$POLICY"
	_policy_saved=
}
defer policy_restore
no_services() {
	local status=0
	if [[ -e $POLICY || -L $POLICY ]]; then
		mv "$POLICY" "$POLICY.before-sotto.$$"
		_policy_saved=$POLICY.before-sotto.$$
	else
		_policy_saved=none
	fi
	printf '#!/bin/sh\nexit 101\n' >"$POLICY"
	chmod 755 "$POLICY"
	"$@" || status=$?
	policy_restore
	return $status
}

# apt_install PACKAGE…: installs packages. With --no-remove, so that no installed package is removed.
apt_install() {
	[[ $# -gt 0 ]] || return 0
	apt_update "$@"
	say "apt-get install $*"
	no_services env DEBIAN_FRONTEND=noninteractive \
		apt-get -y -qq --no-install-recommends --no-remove -o Dpkg::Use-Pty=0 "${_apt_options[@]}" \
		install "$@" </dev/null >/dev/null || die "apt-get install $* failed; see its output above"
}
_apt_options=()

apt_has() { apt_update "$1" && [[ -n $(apt-cache "${_apt_options[@]}" madison "$1" 2>/dev/null) ]]; }

# install_missing "PROBE PACKAGE"…: installs each package whose probe is missing. A probe is a command, or a file if it
# starts with a slash. A tool that was installed in another way is therefore not replaced.
install_missing() {
	local line probe package wanted=()
	for line in "$@"; do
		read -r probe package <<<"$line"
		case $probe in
		/*) [[ -e $probe ]] || wanted+=("$package") ;;
		*) command -v "$probe" >/dev/null || wanted+=("$package") ;;
		esac
	done
	apt_install "${wanted[@]}"
}

# fetch_packages DIR PACKAGE…: downloads packages and unpacks them in DIR, which it creates. Nothing is installed.
fetch_packages() {
	local dir=$1 deb
	shift
	apt_update "$@"
	mkdir "$dir"
	(cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$@") || die "apt-get download $* failed; see its output above"
	for deb in "$dir"/*.deb; do dpkg -x "$deb" "$dir"; done
	rm "$dir"/*.deb
}

# fetch_resolved DIR: downloads systemd-resolved, nss-resolve and nscd and unpacks them in DIR, which it creates, for tests
# that run them in namespaces. They are not installed, because they would become the resolvers of this machine.
fetch_resolved() { fetch_packages "$1" systemd-resolved libsystemd-shared libnss-resolve nscd; }

# fetch_from SUITE DIR PACKAGE…: downloads packages of another Debian suite and unpacks them in DIR, which it creates. Sources,
# lists and cache are in DIR; nothing is installed.
fetch_from() {
	local suite=$1 dir=$2 deb options
	shift 2
	mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" >"$dir/apt/sources.list"
	options=(-o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$dir/apt/lists"
		-o "Dir::Cache=$dir/apt/cache" -o APT::Sandbox::User=root)
	apt-get -qq "${options[@]}" update || die "apt-get update with $suite failed; see its output above"
	(cd "$dir/apt" && apt-get -qq "${options[@]}" download "$@") || die "apt-get download $* from $suite failed; see its output above"
	for deb in "$dir"/apt/*.deb; do dpkg -x "$deb" "$dir"; done
	rm -rf "$dir/apt"
}

# ---- Go --------------------------------------------------------------------------------------------------

version_le() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1) == "$1" ]]; }

go_required() { sed -n 's/^go //p' go.mod; }

# go_version BINARY: prints the version of this binary itself, not of the toolchain that go.mod selects.
go_version() { (cd / && GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) | sed -n 's/^go\([0-9.]*\).*/\1/p'; }

# go_find MINIMUM: prints the path of a Go of at least this version, in PATH or in directories that sudo's PATH lacks.
go_find() {
	local minimum=$1 candidate version
	while read -r candidate; do
		[[ -x $candidate ]] || continue
		version=$(go_version "$candidate")
		[[ -n $version ]] && version_le "$minimum" "$version" && echo "$candidate" && return 0
	done < <(
		type -P go || true
		printf '%s\n' /usr/local/go/bin/go
		printf '%s\n' /usr/lib/go-1.*/bin/go | sort -rV
	)
	return 1
}

# ensure_go: prepends a Go that can build this module to PATH, and installs one if necessary.
ensure_go() {
	local required go
	required=$(go_required)
	if ! go=$(go_find "$required") && ! go=$(go_find "$GO_TOOLCHAINS"); then
		install_go
		go=$(go_find "$GO_TOOLCHAINS") || die "installed Go is older than $GO_TOOLCHAINS; install Go $required from go.dev"
	fi
	PATH=$(dirname "$go"):$PATH
	export PATH
	if ! version_le "$required" "$(go_version "$go")"; then
		# Debian's go.env sets GOTOOLCHAIN=local; override it unless the user has set the variable.
		export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
		note "$go is $(go_version "$go"); it downloads Go $required through the module proxy into its cache"
	fi
	# git refuses to work in a tree owned by another user, and go build then fails: build without VCS stamping.
	if command -v git >/dev/null && [[ -e .git ]] && ! git rev-parse -q HEAD >/dev/null 2>&1; then
		export GOFLAGS="${GOFLAGS:-} -buildvcs=false"
	fi
	# The module proxy is accessed over TLS, and a minimal system has no CA certificates.
	[[ -s /etc/ssl/certs/ca-certificates.crt ]] || apt_install ca-certificates
	go version >/dev/null || die "go could not download the toolchain $required; is the module proxy ($(go env GOPROXY)) reachable?"
	note "Go: $(go version)"
}

# install_go: installs golang-go from the distribution. If it is too old to download toolchains (Debian 12), installs a
# newer golang-1.N-go from the suite, or else golang-go from backports.
install_go() {
	local candidate newest
	say "Go $GO_TOOLCHAINS or newer not found"
	apt_update golang-go
	candidate=$(apt-cache policy golang-go | sed -n 's/^ *Candidate: \([0-9]*:\)\?\([0-9.]*\).*/\2/p')
	if [[ -n $candidate ]] && version_le "$GO_TOOLCHAINS" "$candidate"; then
		apt_install golang-go ca-certificates
		return
	fi
	newest=$(apt-cache --names-only search '^golang-1\.[0-9]+-go$' | sed 's/ .*//' | sort -V | tail -n1)
	if [[ -n $newest ]] && version_le "golang-$GO_TOOLCHAINS-go" "$newest"; then
		apt_install "$newest" ca-certificates
		return
	fi
	apt_install ca-certificates
	with_backports apt_install golang-go golang-src
}

# with_backports COMMAND…: runs COMMAND with this release's backports added to apt's sources. Sources and lists are in a
# temporary directory; /etc/apt and /var/lib/apt/lists do not change.
with_backports() {
	local suite mirror dir
	suite=$(. /etc/os-release && echo "${ID:-}-${VERSION_CODENAME:-}")
	[[ $suite == debian-* ]] || die "no newer Go for $suite; install Go $(go_required) from go.dev"
	suite=${suite#debian-}
	# shellcheck disable=SC2016 # apt's own variable
	mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" "Label: Debian" | head -n1)
	dir=$(mktemp -d /tmp/sotto-apt.XXXXXX)
	chmod 755 "$dir"
	defer rm -rf "$dir"
	mkdir -p "$dir/parts" "$dir/lists"
	cp -r /etc/apt/sources.list.d/. "$dir/parts/" 2>/dev/null || true
	[[ ! -e /etc/apt/sources.list ]] || cp /etc/apt/sources.list "$dir/parts/main.list"
	printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s-backports main\n' \
		"${mirror:-http://deb.debian.org/debian}" "$suite" >"$dir/parts/backports.list"
	note "using $suite-backports for this installation only"
	_apt_options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$dir/parts"
		-o "Dir::State::Lists=$dir/lists" -t "$suite-backports")
	apt-get -qq "${_apt_options[@]}" update || die "apt-get update with $suite-backports failed; see its output above"
	"$@"
	_apt_options=()
	rm -rf "$dir"
}

# build: builds bin/sotto, static. The files get the owner of the tree, even if root builds them.
build() {
	mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -o bin/sotto ./cmd/sotto
	chown -R --reference=go.mod bin
}

# build_dist: builds dist/sotto, stripped, for installation on another machine (the Vagrant guest).
build_dist() {
	mkdir -p dist
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o dist/sotto ./cmd/sotto
	chown -R --reference=go.mod dist
}

# ---- isolation -------------------------------------------------------------------------------------------

# cgroup2: prints the directory of the cgroup2 hierarchy.
cgroup2() { sed -n 's/^\([^ ]* \)\{4\}\([^ ]*\) .* - cgroup2 .*/\2/p' /proc/self/mountinfo | tail -n1; }

# sandbox COMMAND…: runs COMMAND in new network and mount namespaces without external connectivity: a query that is not
# intercepted fails with ENETUNREACH. Links, rules, mounts, pins and named namespaces are removed with the namespaces,
# even after a crash or kill. Cgroups and files outside /run are shared with the machine.
sandbox() { _sandbox unshare --net --mount --propagation private -- "$@"; }

# sandbox_pid COMMAND…: also with a new PID namespace, so that daemons are killed with it. Not for the tests, which
# detect leftovers of dead processes by PID.
sandbox_pid() { _sandbox unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private -- "$@"; }

_sandbox() {
	local enter=()
	while [[ $1 != -- ]]; do enter+=("$1") && shift; done
	shift
	# shellcheck disable=SC2016 # expanded by the inner shell
	"${enter[@]}" bash -c 'set -euo pipefail; . "$1"; shift; sandbox_setup; "$@"' \
		"$0" "$(dirname "${BASH_SOURCE[0]}")/lib.sh" "$@"
}

sandbox_setup() {
	local dir
	ip link set lo up
	# A sysfs mount shows the network namespace in which it was mounted: mount a new one, and move the cgroup mounts to it.
	dir=$(mktemp -d)
	mount --rbind /sys/fs/cgroup "$dir"
	umount --recursive --lazy /sys
	mount -t sysfs sysfs /sys
	mount --rbind "$dir" /sys/fs/cgroup
	umount --recursive --lazy "$dir"
	rmdir "$dir"
	mount -t bpf bpf /sys/fs/bpf
	# Shared, as under systemd: named network namespaces are mounts below /run that other mount namespaces must see. Unmount
	# the machine's own mounts there first: mountinfo would still list them below the new /run.
	while read -r dir; do umount --lazy "$dir"; done < <(awk '$5 ~ "^/run(/|$)" { print $5 }' /proc/self/mountinfo | sort -r)
	mount -t tmpfs -o mode=755 tmpfs /run
	mount --make-shared /run
	mkdir /run/lock
}
