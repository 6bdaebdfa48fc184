# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts here share. Sourced, never run; the caller has set -euo pipefail and stands in the root of
# the tree. Everything that is put on the machine is said first, and everything that is not a package is taken
# away again by the EXIT trap.

# The oldest Go that fetches the toolchain named in go.mod by itself.
readonly GO_SWITCHES=1.21

say() { printf '== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# defer COMMAND…: runs at exit, last one first, also after a failure or a signal. Each argument is kept as it is.
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

# wait_for SECONDS WHAT COMMAND…: waits for a condition, and says which one never came.
wait_for() {
	local limit=$1 what=$2 end
	shift 2
	end=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || die "$what did not come within $limit s"
		sleep 0.1
	done
}

# stop PID [SECONDS]: ends one process that this run started and waits until it is gone.
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
	# sudo and CI may leave HOME out, and Go keeps its caches below it.
	[[ -n ${HOME:-} ]] || { HOME=$(getent passwd 0 | cut -d: -f6) && export HOME; }
}

# ---- Debian packages -------------------------------------------------------------------------------------

_apt_updated=
apt_update() {
	[[ -z $_apt_updated ]] || return 0
	command -v apt-get >/dev/null || die "no apt-get here; install by hand what is missing: $*"
	say "apt-get update"
	apt-get -qq update || die "apt-get update failed; see its words above"
	_apt_updated=1
}

# no_services COMMAND…: runs COMMAND while policy-rc.d forbids every package to start a service; the file that
# was there before comes back.
readonly POLICY=/usr/sbin/policy-rc.d
_policy_kept=
policy_restore() {
	[[ -n $_policy_kept ]] || return 0
	rm -f "$POLICY"
	[[ $_policy_kept == none ]] || mv "$_policy_kept" "$POLICY"
	_policy_kept=
}
defer policy_restore
no_services() {
	local status=0
	if [[ -e $POLICY || -L $POLICY ]]; then
		mv "$POLICY" "$POLICY.before-sotto.$$"
		_policy_kept=$POLICY.before-sotto.$$
	else
		_policy_kept=none
	fi
	printf '#!/bin/sh\nexit 101\n' >"$POLICY"
	chmod 755 "$POLICY"
	"$@" || status=$?
	policy_restore
	return $status
}

# apt_install PACKAGE…: --no-remove, because a test that needs a package may not cost the machine another one.
apt_install() {
	[[ $# -gt 0 ]] || return 0
	apt_update "$@"
	say "apt-get install $*"
	no_services env DEBIAN_FRONTEND=noninteractive \
		apt-get -y -qq --no-install-recommends --no-remove -o Dpkg::Use-Pty=0 "${_apt_options[@]}" \
		install "$@" </dev/null >/dev/null || die "apt-get install $* failed; see its words above"
}
_apt_options=()

apt_has() { apt_update "$1" && [[ -n $(apt-cache "${_apt_options[@]}" madison "$1" 2>/dev/null) ]]; }

# install_missing "PROBE PACKAGE"…: a probe is a command, or a file when it begins with a slash; only a package
# whose probe is missing is installed, so that a machine that has its own build of a tool keeps it.
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

# ---- Go --------------------------------------------------------------------------------------------------

version_le() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1) == "$1" ]]; }

go_wanted() { sed -n 's/^go //p' go.mod; }

# go_version BINARY: the version of that very binary, whatever toolchain go.mod would make it fetch.
go_version() { (cd / && GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) | sed -n 's/^go\([0-9.]*\).*/\1/p'; }

# go_find MINIMUM: the first Go of at least that version: PATH, then the places that sudo's PATH leaves out.
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

# ensure_go: puts a Go that can build this module first in PATH.
ensure_go() {
	local wanted go
	wanted=$(go_wanted)
	if ! go=$(go_find "$wanted") && ! go=$(go_find "$GO_SWITCHES"); then
		install_go
		go=$(go_find "$GO_SWITCHES") || die "no Go of at least $GO_SWITCHES after the installation; install Go $wanted from go.dev"
	fi
	PATH=$(dirname "$go"):$PATH
	export PATH
	if ! version_le "$wanted" "$(go_version "$go")"; then
		# Debian's go.env says local; only the user's own word stays above go.mod.
		export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
		note "$go is $(go_version "$go"); the go command fetches $wanted through the module proxy into its own cache"
	fi
	# A tree that belongs to somebody else makes git refuse, and go build with it; then build without the stamp.
	if command -v git >/dev/null && [[ -e .git ]] && ! git rev-parse -q HEAD >/dev/null 2>&1; then
		export GOFLAGS="${GOFLAGS:-} -buildvcs=false"
	fi
	# The proxy is reached over TLS, and a minimal system has no list of whom to trust.
	[[ -s /etc/ssl/certs/ca-certificates.crt ]] || apt_install ca-certificates
	go version >/dev/null || die "go could not get the toolchain $wanted; is the module proxy ($(go env GOPROXY)) within reach?"
	note "Go: $(go version)"
}

# install_go: Debian's and Ubuntu's own package; a Go that is too old to switch toolchains (Debian 12) is passed
# over for a newer one in the suite, then for the one in backports.
install_go() {
	local candidate newest
	say "no Go of at least $GO_SWITCHES on this machine"
	apt_update golang-go
	candidate=$(apt-cache policy golang-go | sed -n 's/^ *Candidate: \([0-9]*:\)\?\([0-9.]*\).*/\2/p')
	if [[ -n $candidate ]] && version_le "$GO_SWITCHES" "$candidate"; then
		apt_install golang-go ca-certificates
		return
	fi
	newest=$(apt-cache --names-only search '^golang-1\.[0-9]+-go$' | sed 's/ .*//' | sort -V | tail -n1)
	if [[ -n $newest ]] && version_le "golang-$GO_SWITCHES-go" "$newest"; then
		apt_install "$newest" ca-certificates
		return
	fi
	apt_install ca-certificates
	with_backports apt_install golang-go golang-src
}

# with_backports COMMAND…: runs COMMAND with this release's backports beside the machine's own sources. Sources
# and lists live in a directory that is gone afterwards; /etc/apt and /var/lib/apt/lists stay as they are.
with_backports() {
	local suite mirror dir
	suite=$(. /etc/os-release && echo "${ID:-}-${VERSION_CODENAME:-}")
	[[ $suite == debian-* ]] || die "no newer Go for $suite; install Go $(go_wanted) from go.dev"
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
	note "with $suite-backports, for this one installation"
	_apt_options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$dir/parts"
		-o "Dir::State::Lists=$dir/lists" -t "$suite-backports")
	apt-get -qq "${_apt_options[@]}" update || die "apt-get update with $suite-backports failed; see its words above"
	"$@"
	_apt_options=()
	rm -rf "$dir"
}

# build: bin/sotto, static. What root builds in a user's tree belongs to the user.
build() {
	mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -o bin/sotto ./cmd/sotto
	chown -R --reference=go.mod bin
}

# build_dist: dist/sotto, stripped, for installing somewhere else (the Vagrant guest takes it from there).
build_dist() {
	mkdir -p dist
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o dist/sotto ./cmd/sotto
	chown -R --reference=go.mod dist
}

# ---- isolation -------------------------------------------------------------------------------------------

# sandbox COMMAND…: runs COMMAND in network and mount namespaces of its own. There is no way out of them: a query
# that escapes every interception hits ENETUNREACH, not a nameserver. Links, rules, mounts, pins and named
# namespaces end with them, so neither a crash nor a kill leaves any on the machine; only cgroups and files outside
# of /run are the machine's own.
sandbox() { _sandbox unshare --net --mount --propagation private -- "$@"; }

# sandbox_pid COMMAND…: with a process namespace too, so that daemons end with it. Not for the tests: they tell the
# leftovers of a dead run from a living one's by process id.
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
	local kept
	ip link set lo up
	# A sysfs mount shows the network namespace that it was mounted in, so a new one; cgroups move over.
	kept=$(mktemp -d)
	mount --rbind /sys/fs/cgroup "$kept"
	umount --recursive --lazy /sys
	mount -t sysfs sysfs /sys
	mount --rbind "$kept" /sys/fs/cgroup
	umount --recursive --lazy "$kept"
	rmdir "$kept"
	mount -t bpf bpf /sys/fs/bpf
	# Shared, as systemd has it: named network namespaces are mounts below /run that others are to see. What is
	# mounted there by the machine itself goes first, for mountinfo would still list it below the new /run.
	while read -r kept; do umount --lazy "$kept"; done < <(awk '$5 ~ "^/run(/|$)" { print $5 }' /proc/self/mountinfo | sort -r)
	mount -t tmpfs -o mode=755 tmpfs /run
	mount --make-shared /run
	mkdir /run/lock
}
