#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Everything that has to hold before a change goes in: installs what the tests need, builds, checks, fuzzes, and
# runs every test as root with -race, where a test that would skip for want of root fails instead.
#
#   sudo ./scripts/test.sh
#
#   SOTTO_SKIP_DOCKER=1   leave out scripts/docker-test.sh (a real engine; about two minutes)
#   SOTTO_FUZZTIME=5s     how long each fuzz target runs
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# "probe package", Debian's and Ubuntu's names alike; only a package whose probe is missing is installed.
packages=(
	# -race links with the C library; the clients under test are C programs too
	"gcc gcc"
	"/usr/include/stdio.h libc6-dev"
	# namespaces, cgroups, users
	"ip iproute2"
	"nft nftables"
	"iptables-legacy iptables"
	"sysctl procps"
	"setpriv util-linux"
	# real clients that must not notice
	"dig bind9-dnsutils"
	"host bind9-host"
	"kdig knot-dnsutils"
	"drill ldnsutils"
	"busybox busybox-static"
	"musl-gcc musl-tools"
	"/usr/include/ares.h libc-ares-dev"
	"python3 python3"
	"/usr/lib/python3/dist-packages/dns/__init__.py python3-dnspython"
	# DNS-over-TLS servers that nobody here wrote
	"nsd nsd"
	"unbound unbound"
	"kresd knot-resolver"
	"dnsdist dnsdist"
	# these scripts
	"shellcheck shellcheck"
)

# The objects in bpf/ are made with this clang (the last one that Debian 12 calls its own); another one gives
# other bytes, so where there is none the two checks that need it are left out by name.
readonly CLANG=14
clang_packages=(
	"clang-$CLANG clang-$CLANG"
	"llvm-strip-$CLANG llvm-$CLANG"
	"clang-format-$CLANG clang-format-$CLANG"
	"/usr/include/bpf/bpf_helpers.h libbpf-dev"
)

# fetch_resolved: unpacked, not installed, for installed it becomes this machine's resolver. It is a workload under
# test, by hand and in namespaces.
fetch_resolved() {
	local dir=$work/resolved
	[[ ! -x /lib/systemd/systemd-resolved ]] || return 0
	apt_update systemd-resolved
	mkdir "$dir"
	(cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download systemd-resolved libsystemd-shared) ||
		die "apt-get download systemd-resolved failed; see its words above"
	for deb in "$dir"/*.deb; do dpkg -x "$deb" "$dir"; done
	export SOTTO_RESOLVED=$dir
}

skipped=()
# step WHAT COMMAND…: not `COMMAND || die`, inside of which bash would go on after a failed line.
current=
step() {
	local started=$SECONDS
	current=$1
	shift
	say "$current"
	"$@"
	((SECONDS - started < 5)) || note "$((SECONDS - started)) s"
	current=
}
failed_step() { [[ -z $current ]] || printf '%s: FAILED: %s\n' "${0##*/}" "$current" >&2; }
defer failed_step

check_gofmt() {
	local wrong
	wrong=$("$(go env GOROOT)/bin/gofmt" -l .)
	[[ -z $wrong ]] || { printf '%s\n' "$wrong" "run: gofmt -w ." >&2 && return 1; }
}

# makes_same_bytes: another build of clang 14, or newer headers, make other bytes of the same sources.
makes_same_bytes() (
	. /etc/os-release
	[[ ${ID:-} == debian && ${VERSION_ID:-} == 12 ]] && dpkg-query -W -f '${Version}' linux-libc-dev | grep -q '^6\.1\.'
)

# check_generated: in a copy, so that the tree stays as it is and need not be a git one.
check_generated() {
	mkdir "$work/regenerated"
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$work/regenerated" -xf -
	(cd "$work/regenerated" && GOFLAGS="${GOFLAGS:-} -buildvcs=false" go generate ./bpf)
	diff -r bpf "$work/regenerated/bpf" || { echo "run: go generate ./bpf, and commit what it changes" >&2 && return 1; }
}

# check_unprivileged: go test as nobody. The go command runs as root and finds its caches; each test runs in a
# readable copy of the tree, without a privilege left, and in a sandbox.
check_unprivileged() {
	local log=$work/unprivileged.log
	mkdir "$work/unprivileged" "$work/gomod"
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$work/unprivileged" -xf -
	cat >"$work/as-nobody" <<-'END'
		#!/bin/sh
		# The go command keeps its binaries in a directory that is closed to others.
		mine=$(mktemp -d "$SOTTO_NOBODY/XXXXXX") || exit
		cp "$1" "$mine/test" && chmod 755 "$mine" "$mine/test" || exit
		shift
		setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
			env -u GOROOT HOME="$SOTTO_NOBODY" GOCACHE="$SOTTO_NOBODY/cache" TMPDIR="$SOTTO_NOBODY" GOMODCACHE="$SOTTO_GOMOD" \
			PATH="$SOTTO_GOROOT/bin:$PATH" GOTOOLCHAIN=local "$mine/test" "$@"
		status=$?
		rm -rf "$mine"
		exit $status
	END
	chmod 755 "$work/as-nobody"
	install -d -o 65534 -g 65534 "$work/nobody"
	sandbox bash "$0" unprivileged "$work" >"$log" 2>&1 ||
		{ grep -E -B30 -- '--- FAIL|^FAIL|panic:' "$log" >&2 || cat "$log" >&2; return 1; }
	# The line above a skip says why.
	grep -B1 -E '^ *--- SKIP' "$log" | sed -n 's/^ *[a-z_0-9]*\.go:[0-9]*: //p' | sort | uniq -c | sed 's/^ */   /'
	note "$(grep -c -E '^--- PASS' "$log" || true) tests passed as nobody, $(grep -c -E '^--- SKIP' "$log" || true) skipped"
}

test_unprivileged() {
	export SOTTO_NOBODY=$1/nobody SOTTO_GOMOD=$1/gomod GOPROXY=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"
	unset SOTTO_REQUIRE_PRIVILEGED
	# Tests may call the go command, and root's module cache, in which a toolchain that was fetched lies too, is
	# where nobody may not look.
	local cache goroot
	cache=$(go env GOMODCACHE) goroot=$(go env GOROOT)
	mount -o bind,ro "$cache" "$SOTTO_GOMOD"
	export SOTTO_GOROOT=${goroot/#$cache/$SOTTO_GOMOD}
	cd "$1/unprivileged"
	go test -count=1 -timeout=10m -v -exec "$1/as-nobody" ./...
}

# ended_by_time: before Go 1.27 the end of -fuzztime can be taken for a failure, with nothing found
# (golang.org/issue/75804). A finding names the input that it was found with.
ended_by_time() { grep -q 'context deadline exceeded' "$work/fuzz.log" && ! grep -q -e 'Failing input' -e 'panic' "$work/fuzz.log"; }

# A new input is made smaller by ten tries, and not for a minute, as is the default: that
# minute, and often more than one, would be all that there is.
fuzz() {
	local package target
	while read -r package; do
		while read -r target; do
			note "$package $target"
			go test -run='^$' -fuzz="^$target\$" -fuzztime="${SOTTO_FUZZTIME:-5s}" -fuzzminimizetime=10x "$package" >"$work/fuzz.log" 2>&1 ||
				ended_by_time || { cat "$work/fuzz.log" >&2 && return 1; }
		done < <(go test -list='^Fuzz' "$package" | grep '^Fuzz' || true)
	done < <(grep -l --include='*_test.go' -r '^func Fuzz' . | xargs -r -n1 dirname | sort -u)
}

# test_privileged: as root in a sandbox with no way out; what is still there afterwards is a leak.
test_privileged() {
	export SOTTO_REQUIRE_PRIVILEGED=1 GOPROXY=off
	local lab others shared status=0
	# Tests with a network lab hold a lock of the machine. Their packages run one after the other, beside all others.
	# cmd/sotto has one such test.
	lab=$(go list -test -f '{{if .ForTest}}{{.ForTest}} {{join .Deps " "}}{{end}}' ./... |
		sed -n 's,^\([^ ]*\) .*sotto/internal/netlab/labtest.*,\1,p' | grep -vx sotto/cmd/sotto | sort -u)
	others=$(go list ./... | grep -vxF "$lab")
	# shellcheck disable=SC2086 # words
	go test -race -p=1 -count=1 -timeout=15m $lab &
	shared=$!
	# shellcheck disable=SC2086 # words
	go test -race -p=1 -count=1 -timeout=15m $others || status=$?
	wait "$shared" || status=$?
	((status == 0)) || return "$status"
	local left
	left=$(left_over)
	[[ -z $left ]] || { printf 'left over after the tests:\n%s\n' "$left" >&2 && return 1; }
}

left_over() {
	ip -o link show | grep -v ': lo:' || true
	# bpffs has files of the kernel's own, and Sotto's directory there stays until `sotto down`.
	find /run/netns /run/sotto /sys/fs/bpf -mindepth 1 ! -name lock ! -name '*.debug' ! -path /sys/fs/bpf/sotto 2>/dev/null || true
}

case ${1:-} in
privileged)
	test_privileged
	exit
	;;
unprivileged)
	test_unprivileged "$2"
	exit
	;;
esac

need_root
grep -q ' - cgroup2 ' /proc/self/mountinfo ||
	die "cgroup v2 is mounted nowhere; mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
install_missing "${packages[@]}"
if command -v clang-$CLANG >/dev/null || apt_has clang-$CLANG; then
	install_missing "${clang_packages[@]}"
	has_clang=1
else
	has_clang=
	skipped+=("clang-format and regenerated objects: this suite has no clang-$CLANG")
fi
ensure_go
work=$(mktemp -d /tmp/sotto-test.XXXXXX)
chmod 755 "$work"
defer rm -rf "$work"

step "fetch systemd-resolved" fetch_resolved
step "go mod download" go mod download
step "go build" build
step "gofmt" check_gofmt
step "go vet" go vet ./...
step "staticcheck" go tool staticcheck ./...
step "go mod tidy -diff" go mod tidy -diff
step "shellcheck" shellcheck -x -S warning scripts/*.sh scripts/*/*.sh
if [[ -n $has_clang ]]; then
	step "clang-format-$CLANG" clang-format-$CLANG --dry-run -Werror bpf/*.[ch]
	if makes_same_bytes; then
		step "go generate ./bpf, and compare" check_generated
	else
		skipped+=("regenerated objects: they reproduce with the clang and kernel headers of Debian 12")
	fi
fi
step "go test as nobody" check_unprivileged
step "fuzz, ${SOTTO_FUZZTIME:-5s} each" fuzz
if [[ -z ${SOTTO_SKIP_DOCKER:-} ]]; then
	step "docker-test.sh" scripts/docker-test.sh
else
	skipped+=("docker-test.sh: SOTTO_SKIP_DOCKER is set")
fi
for line in "${skipped[@]}"; do say "SKIPPED $line"; done
step "SOTTO_REQUIRE_PRIVILEGED=1 go test -race, all packages" sandbox bash "$0" privileged
say "everything passed in $SECONDS s${skipped[*]:+, but for what is named SKIPPED above}"
