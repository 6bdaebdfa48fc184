#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Complete test suite, required before each merge: installs the tools that the tests need, builds, runs static checks and
# fuzz tests, and runs all tests as root with -race. Tests that would be skipped without root fail instead.
#
#   sudo ./scripts/test.sh
#
#   SOTTO_SKIP_DOCKER=1   skip scripts/docker-test.sh, podman-test.sh and names-test.sh (real container engines; about three minutes)
#   SOTTO_FUZZTIME=1s     duration of each fuzz target; 0: none (their seeds are part of the other tests)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# "PROBE PACKAGE", see install_missing. Package names are the same in Debian and Ubuntu.
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
	# user-mode networking of rootless containers
	"slirp4netns slirp4netns"
	"pasta passt"
	# real DNS clients
	"dig bind9-dnsutils"
	"host bind9-host"
	"kdig knot-dnsutils"
	"drill ldnsutils"
	"curl curl"
	"busybox busybox-static"
	"musl-gcc musl-tools"
	"/usr/include/ares.h libc-ares-dev"
	"python3 python3"
	"/usr/lib/python3/dist-packages/dns/__init__.py python3-dnspython"
	# independent DNS over TLS servers
	"nsd nsd"
	"unbound unbound"
	# the cache that instances share
	"redis-server redis-server"
	# local resolvers
	"dnsmasq dnsmasq-base"
	"dbus-daemon dbus-daemon"
	"kresd knot-resolver"
	"dnsdist dnsdist"
	# a TLS server that requires client certificates, and a resolver as a client
	"stunnel stunnel4"
	# readers of dnstap
	"dnstap-ldns dnstap-ldns"
	"dnstap golang-github-dnstap-golang-dnstap-cli"
	"dnstap-read bind9-dnsutils"
	"fstrm_capture fstrm-bin"
	"named bind9"
	# manual pages and completions
	"groff groff-base"
	"/usr/share/bash-completion/bash_completion bash-completion"
	"zsh zsh"
	"fish fish"
	# a terminal
	"tmux tmux"
	# checks
	"shellcheck shellcheck"
)

# The objects in intercept/ are built with this version of clang (the default of Debian 12). Other versions produce different
# bytes, so without it the two checks that need it are reported as SKIPPED.
readonly CLANG=14
clang_packages=(
	"clang-$CLANG clang-$CLANG"
	"llvm-strip-$CLANG llvm-$CLANG"
	"clang-format-$CLANG clang-format-$CLANG"
	"/usr/include/bpf/bpf_helpers.h libbpf-dev"
)

# resolved: provides systemd-resolved, nss-resolve and nscd for the tests.
resolved() {
	[[ ! -x /lib/systemd/systemd-resolved ]] || return 0
	fetch_resolved "$work/resolved"
	export SOTTO_RESOLVED=$work/resolved
}

# fetch_prometheus: downloads and unpacks Prometheus, for the test that scrapes, and promtool, which checks alert rules. It is
# not installed, because its package starts a service.
fetch_prometheus() {
	local dir=$work/prometheus
	! command -v prometheus >/dev/null || ! command -v promtool >/dev/null || return 0
	fetch_packages "$dir" prometheus
	export SOTTO_PROMTOOL=$dir/usr/bin/promtool SOTTO_PROMETHEUS=$dir/usr/bin/prometheus
}

skipped=()
# step WHAT COMMAND…: runs one step. Not as `COMMAND || die`, which would disable errexit inside COMMAND.
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
	[[ -z $wrong ]] || { printf '%s\n' "$wrong" "run gofmt -w ." >&2 && return 1; }
}

# objects_reproducible: reports whether this machine has the clang and kernel headers with which the objects were built.
objects_reproducible() (
	. /etc/os-release
	[[ ${ID:-} == debian && ${VERSION_ID:-} == 12 ]] && dpkg-query -W -f '${Version}' linux-libc-dev | grep -q '^6\.1\.'
)

# check_generated: regenerates bpf/ in a copy of the tree, which need not be a git checkout, and compares.
check_generated() {
	mkdir "$work/regenerated"
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$work/regenerated" -xf -
	(cd "$work/regenerated" && GOFLAGS="${GOFLAGS:-} -buildvcs=false" go generate ./intercept/...)
	diff -r intercept "$work/regenerated/intercept" || { echo "run go generate ./intercept/... and commit the changes" >&2 && return 1; }
}

# check_unprivileged: runs go test as user nobody. The go command itself runs as root, to use its caches; the test binaries
# run without privileges, in a readable copy of the tree and in a sandbox.
check_unprivileged() {
	local log=$work/unprivileged.log
	mkdir "$work/unprivileged" "$work/gomod"
	tar --exclude=./.git --exclude=./bin --exclude=./dist -cf - . | tar -C "$work/unprivileged" -xf -
	cat >"$work/as-nobody" <<-'END'
		#!/bin/sh
		# The go command puts test binaries in a directory that others cannot read.
		dir=$(mktemp -d "$SOTTO_NOBODY/XXXXXX") || exit
		cp "$1" "$dir/test" && chmod 755 "$dir" "$dir/test" || exit
		shift
		setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
			env -u GOROOT HOME="$SOTTO_NOBODY" GOCACHE="$SOTTO_NOBODY/cache" TMPDIR="$SOTTO_NOBODY" GOMODCACHE="$SOTTO_GOMOD" \
			PATH="$SOTTO_GOROOT/bin:$PATH" GOTOOLCHAIN=local "$dir/test" "$@"
		status=$?
		rm -rf "$dir"
		exit $status
	END
	chmod 755 "$work/as-nobody"
	install -d -o 65534 -g 65534 "$work/nobody"
	install -m 755 bin/sotto "$work/sotto"
	sandbox bash "$0" unprivileged "$work" >"$log" 2>&1 ||
		{ grep -E -B30 -- '--- FAIL|^FAIL|panic:' "$log" >&2 || cat "$log" >&2; return 1; }
	# The line before a skip is its reason.
	grep -B1 -E '^ *--- SKIP' "$log" | sed -n 's/^ *[a-z_0-9]*\.go:[0-9]*: //p' | sort | uniq -c | sed 's/^ */   /'
	note "$(grep -c -E '^--- PASS' "$log" || true) tests passed as nobody, $(grep -c -E '^--- SKIP' "$log" || true) skipped"
}

test_unprivileged() {
	export SOTTO_NOBODY=$1/nobody SOTTO_GOMOD=$1/gomod GOPROXY=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"
	export SOTTO_TEST_PROGRAM=$1/sotto # user nobody has no build cache
	unset SOTTO_REQUIRE_PRIVILEGED
	# Some tests run the go command, but user nobody cannot read root's module cache, which may also contain the toolchain.
	local cache goroot
	cache=$(go env GOMODCACHE) goroot=$(go env GOROOT)
	mount -o bind,ro "$cache" "$SOTTO_GOMOD"
	export SOTTO_GOROOT=${goroot/#$cache/$SOTTO_GOMOD}
	cd "$1/unprivileged"
	go test -count=1 -timeout=10m -v -exec "$1/as-nobody" ./...
}

# check_deb: builds the deb, and compares its files and scripts with what an installation needs.
check_deb() {
	local deb file files
	deb=$(scripts/package.sh --out "$work/debs")
	files=$(dpkg-deb --fsys-tarfile "$deb" | tar -t)
	for file in usr/bin/sotto etc/sotto/sotto.toml usr/lib/systemd/system/sotto.service usr/lib/sysusers.d/sotto.conf \
		usr/share/man/man8/sotto-run.8.gz usr/share/bash-completion/completions/sotto usr/share/doc/sotto/copyright \
		usr/share/doc/sotto/sotto.toml; do
		grep -qxF "./$file" <<<"$files" || { echo "$deb lacks $file" >&2 && return 1; }
	done
	dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/lib/systemd/system/sotto.service | grep -q '^ExecStart=/usr/bin/sotto ' ||
		{ echo "the packaged unit does not start /usr/bin/sotto" >&2 && return 1; }
	dpkg-deb --info "$deb" conffiles | grep -qx /etc/sotto/sotto.toml
	for file in postinst prerm postrm; do dpkg-deb --info "$deb" $file | sh -n; done
	dpkg-deb --fsys-tarfile "$deb" | tar -xO ./etc/sotto/sotto.toml >"$work/example.toml"
	sandbox bin/sotto run --check --config "$work/example.toml" >/dev/null
}

# fuzz_timed_out: before Go 1.27, go test can report a failure at the end of -fuzztime although it found nothing
# (golang.org/issue/75804). A real failure names the failing input.
fuzz_timed_out() { grep -q 'context deadline exceeded' "$work/fuzz.log" && ! grep -q -e 'Failing input' -e 'panic' "$work/fuzz.log"; }

# -fuzzminimizetime=10x: the default of one minute per new input would exceed the fuzzing time.
fuzz() {
	local package target
	while read -r package; do
		while read -r target; do
			note "$package $target"
			go test -run='^$' -fuzz="^$target\$" -fuzztime="${SOTTO_FUZZTIME:-1s}" -fuzzminimizetime=10x "$package" >"$work/fuzz.log" 2>&1 ||
				fuzz_timed_out || { cat "$work/fuzz.log" >&2 && return 1; }
		done < <(go test -list='^Fuzz' "$package" | grep '^Fuzz' || true)
	done < <(grep -l --include='*_test.go' -r '^func Fuzz' . | xargs -r -n1 dirname | sort -u)
}

# lab_packages: prints the packages whose tests have a network lab. They hold a lock of the machine, so they run one after
# the other, and mostly wait. cmd/sotto has one such test.
lab_packages() {
	go list -test -f '{{if .ForTest}}{{.ForTest}} {{join .Deps " "}}{{end}}' ./... |
		sed -n 's,^\([^ ]*\) .*sotto/internal/netlab/labtest.*,\1,p' | grep -vx sotto/cmd/sotto | sort -u
}

# test_lab and test_others: together they run all tests as root in a sandbox, and fail if these leave anything behind.
test_lab() {
	# shellcheck disable=SC2046 # words
	test_privileged -p=1 $(lab_packages)
}
test_others() {
	test_privileged ./cmd/sotto # alone: it floods servers
	# shellcheck disable=SC2046 # words
	test_privileged -p=2 $(go list ./... | grep -vxF "$(lab_packages)" | grep -vx sotto/cmd/sotto)
}
test_privileged() {
	local dir
	dir=$(mktemp -d)
	defer rm -rf "$dir"
	go build -race -buildvcs=false -o "$dir/sotto" ./cmd/sotto
	SOTTO_TEST_PROGRAM=$dir/sotto SOTTO_REQUIRE_PRIVILEGED=1 GOPROXY=off go test -race -count=1 -timeout=15m "$@"
	local left
	left=$(leftovers)
	[[ -z $left ]] || { printf 'leftovers of the tests:\n%s\n' "$left" >&2 && return 1; }
}

# start_lab: starts test_lab in the background, beside the other steps, none of which measures time. In a session of its own, so that
# stop_lab can end it with its children.
start_lab() {
	setsid bash "$0" lab >"$work/lab.log" 2>&1 &
	lab=$!
	defer stop_lab
}
stop_lab() { [[ -z $lab ]] || kill -- "-$lab" 2>/dev/null || true; }
wait_lab() {
	local status=0
	wait "$lab" || status=$?
	lab=
	cat "$work/lab.log"
	return "$status"
}
lab=

leftovers() {
	ip -o link show | grep -v ': lo:' || true
	# bpffs contains files of the kernel (*.debug), and Sotto's directory there remains until `sotto down`.
	find /run/netns /run/sotto /sys/fs/bpf -mindepth 1 ! -name lock ! -name '*.debug' ! -path /sys/fs/bpf/sotto 2>/dev/null || true
}

case ${1:-} in
lab)
	sandbox bash "$0" lab-inside
	exit
	;;
lab-inside)
	test_lab
	exit
	;;
others)
	test_others
	exit
	;;
unprivileged)
	test_unprivileged "$2"
	exit
	;;
esac

need_root
grep -q ' - cgroup2 ' /proc/self/mountinfo ||
	die "cgroup v2 is not mounted; mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
install_missing "${packages[@]}"
if command -v clang-$CLANG >/dev/null || apt_has clang-$CLANG; then
	install_missing "${clang_packages[@]}"
	has_clang=1
else
	has_clang=
	skipped+=("clang-format and regenerated objects: no package clang-$CLANG in this suite")
fi
ensure_go
work=$(mktemp -d /tmp/sotto-test.XXXXXX)
chmod 755 "$work"
defer rm -rf "$work"

step "fetch systemd-resolved" resolved
step "fetch Prometheus" fetch_prometheus
step "go mod download" go mod download
step "go build" build
start_lab
step "gofmt" check_gofmt
step "go vet" go vet ./...
step "staticcheck" go tool staticcheck ./...
step "go mod tidy -diff" go mod tidy -diff
step "shellcheck" shellcheck -x -S warning scripts/*.sh scripts/*/*.sh
if [[ -n $has_clang ]]; then
	step "clang-format-$CLANG" clang-format-$CLANG --dry-run -Werror bpf/*.[ch]
	if objects_reproducible; then
		step "go generate ./intercept/..., and compare" check_generated
	else
		skipped+=("regenerated objects: reproducible only with clang and kernel headers of Debian 12")
	fi
fi
step "the deb and its files" check_deb
step "go test as nobody" check_unprivileged
if [[ ${SOTTO_FUZZTIME:-} != 0 ]]; then
	step "fuzz, ${SOTTO_FUZZTIME:-1s} each" fuzz
else
	skipped+=("fuzz: SOTTO_FUZZTIME is 0")
fi
if [[ -z ${SOTTO_SKIP_DOCKER:-} ]]; then
	step "docker-test.sh" scripts/docker-test.sh
	step "podman-test.sh" scripts/podman-test.sh
	step "names-test.sh" scripts/names-test.sh
else
	skipped+=("docker-test.sh, podman-test.sh and names-test.sh: SOTTO_SKIP_DOCKER is set")
fi
for line in "${skipped[@]}"; do say "SKIPPED $line"; done
step "SOTTO_REQUIRE_PRIVILEGED=1 go test -race, packages without a network lab" sandbox bash "$0" others
step "SOTTO_REQUIRE_PRIVILEGED=1 go test -race, packages with a network lab (since the build)" wait_lab
say "all tests passed in $SECONDS s${skipped[*]:+, except the steps marked SKIPPED above}"
