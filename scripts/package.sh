#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds packages with nfpm (deploy/packages), reproducibly: the same commit, version and Go make the same bytes. Needs no
# root and runs nothing that it packages except on this machine's own architecture.
#
#   ./scripts/package.sh [--version VERSION] [--arch amd64,arm64] [--format deb,rpm,apk] [--out DIR]
#
# Defaults: the newest version in CHANGELOG.md with "-pre" and the time of the commit; this machine's architecture; deb; and
# dist/packages. Prints the path of each package. SOURCE_DATE_EPOCH overrides the time of the commit; SOTTO_NFPM is an nfpm
# that is used instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-release.sh

version='' arches='' formats=deb out=dist/packages
while (($# > 0)); do
	case $1 in
	--version) version=$2 ;;
	--arch) arches=$2 ;;
	--format) formats=$2 ;;
	--out) out=$2 ;;
	*) die "unknown option $1; usage: $0 [--version VERSION] [--arch amd64,arm64] [--format deb,rpm,apk] [--out DIR]" ;;
	esac
	shift 2
done

# debian_changelog: prints a changelog with one entry, which refers to the upstream changelog.
debian_changelog() {
	printf 'sotto (%s-1) unstable; urgency=medium\n\n  * Package of this version; changelog.gz lists the changes.\n\n' "${version/-/\~}"
	printf ' -- Sotto maintainers <maintainers@localhost>  %s\n' "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
}

# stage DIR: writes the files that are the same for each architecture.
stage() {
	local dir=$1 file
	build_release "$version" "$(go env GOHOSTARCH)" "$work/native"
	build_texts "$work/native" "$dir"
	gzip -9n "$dir"/man/*
	mkdir -p "$dir/units" "$dir/doc"
	for file in deploy/systemd/*.service deploy/systemd/*.socket; do
		[[ ! -e $file ]] || unit "$file" >"$dir/units/${file##*/}"
	done
	example_config >"$dir/sotto.toml"
	gzip -9nc CHANGELOG.md >"$dir/doc/changelog.gz"
	gzip -9nc docs/OPERATING.md >"$dir/doc/OPERATING.md.gz"
	gzip -9nc docs/SECURITY.md >"$dir/doc/SECURITY.md.gz"
	cp $PACKAGING/copyright docs/sotto.toml "$dir/doc/"
	debian_changelog | gzip -9n >"$dir/changelog.Debian.gz"
}

# package ARCH FORMAT: builds one package and prints its path.
package() {
	ARCH=$1 VERSION=$version STAGE=$work/$1 "$nfpm" package --config $PACKAGING/nfpm.yaml --packager "$2" --target "$out" >"$work/nfpm.log" 2>&1 ||
		{ cat "$work/nfpm.log" >&2 && die "nfpm failed: $1, $2: see its output above"; }
	sed -n 's/^created package: //p' "$work/nfpm.log"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/sotto-package.XXXXXX")
defer rm -rf "$work"
ensure_go >&2
source_date
version=${version:-$(development_version)}
arches=${arches:-$(go env GOHOSTARCH)}
nfpm=${SOTTO_NFPM:-$(packaging_tool nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm)}
mkdir -p "$out" "$work/common"
stage "$work/common"
for arch in ${arches//,/ }; do
	cp -r "$work/common" "$work/$arch"
	if [[ $arch == $(go env GOHOSTARCH) ]]; then
		cp "$work/native" "$work/$arch/sotto"
	else
		build_release "$version" "$arch" "$work/$arch/sotto"
	fi
	for format in ${formats//,/ }; do package "$arch" "$format"; done
done
