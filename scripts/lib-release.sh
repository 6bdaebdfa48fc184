# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Functions shared by the scripts that build packages and releases. Source this file after lib.sh. Everything that they
# build depends only on the tree, the version, SOURCE_DATE_EPOCH and the version of Go.

readonly PACKAGING=deploy/packages

work=${work:-}

# changelog_version: prints the newest version in CHANGELOG.md.
changelog_version() { sed -n 's/^## \([0-9][0-9.]*\) - .*/\1/p' CHANGELOG.md | head -n1; }

# changelog_date VERSION: prints its date.
changelog_date() { sed -n "s/^## ${1//./\\.} - \([0-9-]*\)$/\1/p" CHANGELOG.md; }

# source_date: exports SOURCE_DATE_EPOCH: the time of the commit, or without a git checkout the date of the newest version.
source_date() {
	[[ -z ${SOURCE_DATE_EPOCH:-} ]] || return 0
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) ||
		SOURCE_DATE_EPOCH=$(date -u -d "$(changelog_date "$(changelog_version)")" +%s)
	export SOURCE_DATE_EPOCH
}

# development_version: prints the version of a build that is not a release. It sorts before the release.
development_version() { echo "$(changelog_version)-pre$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)"; }

# build_release VERSION ARCH FILE: builds a static binary. The same tree, version and Go make the same bytes anywhere.
build_release() {
	CGO_ENABLED=0 GOOS=linux GOARCH=$2 GOFLAGS='' GOAMD64=v1 GOARM64=v8.0 \
		go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$1" -o "$3" ./cmd/sotto
}

# build_texts BINARY DIR: writes manual pages and completions, which are the same for each architecture.
build_texts() {
	"$1" man "$2/man" >/dev/null
	mkdir -p "$2/completions"
	"$1" completion bash >"$2/completions/sotto.bash"
	"$1" completion zsh >"$2/completions/_sotto"
	"$1" completion fish >"$2/completions/sotto.fish"
}

# example_config: prints docs/sotto.toml with each setting as a comment, so that an upgrade can change a default.
example_config() { sed -E '/^[^#]/s/^/#/' docs/sotto.toml; }

# unit FILE: prints a unit for a package, with the program in /usr/bin.
unit() { sed 's,/usr/local/bin/,/usr/bin/,g' "$1"; }

# archive VERSION ARCH BINARY NATIVE OUT: writes OUT/sotto-VERSION-linux-ARCH.tar.gz, for systems without packages, with
# install.sh. NATIVE is a binary that runs here.
archive() {
	local name=sotto-$1-linux-$2 dir=$work/archive-$2/sotto-$1
	mkdir -p "$dir/systemd" "$dir/openrc"
	cp "$3" "$dir/sotto"
	build_texts "$4" "$dir"
	cp deploy/systemd/*.s* "$dir/systemd/"
	cp $PACKAGING/apk/sotto.initd "$dir/openrc/sotto"
	example_config >"$dir/sotto.toml"
	cp $PACKAGING/serve.toml "$dir/"
	cp LICENSE README.md CHANGELOG.md docs/OPERATING.md docs/SECURITY.md scripts/install.sh "$dir/"
	cp $PACKAGING/copyright "$dir/COPYRIGHT"
	chmod -R u=rwX,go=rX "$dir"
	(cd "$dir" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
	chmod 644 "$dir/SHA256SUMS"
	tar -C "$work/archive-$2" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "sotto-$1" |
		gzip -9n >"$5/$name.tar.gz"
}

# packaging_tool NAME PACKAGE: builds a program of the module $PACKAGING, unless it is up to date, and prints its path.
packaging_tool() {
	go build -C "$PACKAGING" -trimpath -buildvcs=false -o "$work/$1" "$2" || die "go build $2 failed; see its output above"
	echo "$work/$1"
}
