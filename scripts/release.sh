#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes a release, in dist/VERSION: for amd64 and arm64 a binary, an archive with install.sh, a deb, an rpm, an apk, a container
# image and an SBOM; an OCI layout with both images; SHA256SUMS and a provenance statement. Everything is built twice, in two
# folders, and must have the same bytes. Needs no root and no container engine.
#
#   ./scripts/release.sh VERSION
#
# CHANGELOG.md must have a section of that version. The build uses the files of the last commit, not changes on top of it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/lib-release.sh

readonly ARCHES=(amd64 arm64)

# ---- one build, in the tree in which it runs ---------------------------------------------------------------

# images: writes a container image for `docker load` per architecture, and an OCI layout with both.
images() {
	local arch common=(--version "$version" --revision "$revision" --epoch "$SOURCE_DATE_EPOCH" --config deploy/docker/sotto.toml)
	local binaries='' sboms='' list
	for arch in "${ARCHES[@]}"; do
		"$work/image" "${common[@]}" --arch "$arch" --binary "$out/sotto-$version-linux-$arch" --sbom "$out/sotto-$version-linux-$arch.cdx.json" \
			--out "$out/sotto-$version-linux-$arch-image.tar"
		binaries+=,$out/sotto-$version-linux-$arch sboms+=,$out/sotto-$version-linux-$arch.cdx.json
	done
	list=$(IFS=,; echo "${ARCHES[*]}")
	"$work/image" "${common[@]}" --oci --arch "$list" --binary "${binaries#,}" --sbom "${sboms#,}" --out "$work/oci"
	tar -C "$work/oci" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" \
		-cf "$out/sotto-$version-oci.tar" .
}

# provenance: prints an in-toto statement with a SLSA provenance predicate: what was made, from which commit, compiler and
# modules. It has no time and no name of a machine, so that another builder can make the same.
provenance() {
	go version -m "$out/sotto-$version-linux-${ARCHES[0]}" >"$work/modules"
	python3 - "$out" "$version" "$revision" "$SOURCE_DATE_EPOCH" "$(go env GOVERSION)" "$work/modules" <<-'END'
		import base64, hashlib, json, os, sys
		out, version, revision, epoch, go, modules = sys.argv[1:]
		digest = lambda name: hashlib.sha256(open(os.path.join(out, name), "rb").read()).hexdigest()
		subjects = [{"name": n, "digest": {"sha256": digest(n)}} for n in sorted(os.listdir(out))]
		materials = [
		    {"name": "sotto", "uri": "git+sotto@" + revision, "digest": {"gitCommit": revision}},
		    {"name": "go", "uri": "pkg:golang/toolchain@" + go, "annotations": {"version": go}},
		]
		for line in open(modules):
		    field = line.split()
		    if field[0] != "dep":
		        continue
		    # The sum is that of go.sum (golang.org/x/mod/sumdb/dirhash): SHA-256 over the files of the module.
		    materials.append({"name": field[1], "uri": "pkg:golang/%s@%s" % (field[1], field[2]),
		                      "digest": {"dirHash1": base64.b64decode(field[3].removeprefix("h1:")).hex()}})
		print(json.dumps({
		    "_type": "https://in-toto.io/Statement/v1",
		    "subject": subjects,
		    "predicateType": "https://slsa.dev/provenance/v1",
		    "predicate": {
		        "buildDefinition": {
		            "buildType": "https://sotto.example/release-script/v1",
		            "externalParameters": {"script": "scripts/release.sh", "version": version},
		            "internalParameters": {"SOURCE_DATE_EPOCH": int(epoch), "CGO_ENABLED": "0", "flags": ["-trimpath", "-buildvcs=false"]},
		            "resolvedDependencies": materials,
		        },
		        "runDetails": {"builder": {"id": "https://sotto.example/scripts/release.sh"}},
		    },
		}, indent=2))
	END
}

# build_all: builds everything in $out.
build_all() {
	local arch
	build_release "$version" "$(go env GOHOSTARCH)" "$work/native"
	packaging_tool cyclonedx-gomod github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod >/dev/null
	packaging_tool image ./image >/dev/null
	for arch in "${ARCHES[@]}"; do
		note "linux/$arch"
		build_release "$version" "$arch" "$out/sotto-$version-linux-$arch"
		"$work/cyclonedx-gomod" bin -json -std -noserial -notimestamp -version "v$version" \
			-output "$out/sotto-$version-linux-$arch.cdx.json" "$out/sotto-$version-linux-$arch" 2>/dev/null
		archive "$version" "$arch" "$out/sotto-$version-linux-$arch" "$work/native" "$out"
	done
	note "packages"
	scripts/package.sh --version "$version" --arch "$(IFS=,; echo "${ARCHES[*]}")" --format deb,rpm,apk --out "$out" >/dev/null
	note "images"
	images
	provenance >"$work/provenance.json"
	cp "$work/provenance.json" "$out/sotto-$version.provenance.json"
	(cd "$out" && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum) >"$work/sums"
	cp "$work/sums" "$out/SHA256SUMS"
}

# ---- the release -------------------------------------------------------------------------------------------

# build_in DIR: exports the commit to DIR and builds there. The packaging tools are built in each, too.
build_in() {
	say "build in $1"
	mkdir -p "$1/out"
	git archive "$revision" | tar -C "$1" -xf -
	(cd "$1" && bash scripts/release.sh build "$version" "$revision" "$1/out")
}

case ${1:-} in
build)
	version=$2 revision=$3 out=$4
	work=$(mktemp -d "${TMPDIR:-/tmp}/sotto-release.XXXXXX")
	defer rm -rf "$work"
	build_all
	exit
	;;
[0-9]*) version=$1 ;;
*) die "usage: $0 VERSION" ;;
esac
[[ $version == *-* || -n $(changelog_date "$version") ]] || die "CHANGELOG.md has no section '## $version - DATE'; add it, and commit"
revision=$(git rev-parse HEAD) || die "a release is made from a commit; this is not a git checkout"
[[ -z $(git status --porcelain) ]] || note "changes that are not committed are not part of the release"
ensure_go
source_date
go mod download
work=$(mktemp -d "${TMPDIR:-/tmp}/sotto-release.XXXXXX")
defer rm -rf "$work"
build_in "$work/one"
build_in "$work/another/folder"
say "compare"
diff -r "$work/one/out" "$work/another/folder/out" || die "the two builds differ"
rm -rf "dist/$version"
mkdir -p dist
cp -r "$work/one/out" "dist/$version"
chown -R --reference=go.mod dist
(cd "dist/$version" && sha256sum --quiet -c SHA256SUMS && du -h --apparent-size -- * | sed 's/^/   /')
note "$("dist/$version/sotto-$version-linux-$(go env GOHOSTARCH)" version)"
say "release $version: $(find "dist/$version" -type f | wc -l) files in dist/$version, built twice with the same bytes, in $SECONDS s"
