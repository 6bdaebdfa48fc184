# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Debian systems for tests, kept in a cache between runs. Source it after lib.sh.

readonly CACHE=${SOTTO_CACHE:-/var/cache/sotto-test}

# cached_root SUITE PACKAGES [OPTION…]: sets root_tar to a Debian system with these packages, which it builds unless the
# cache has it. OPTIONs are for mmdebstrap.
cached_root() {
	local suite=$1 packages=$2 key
	shift 2
	key=$(printf '%s\n' "$suite" "$packages" "$@" | sha256sum | cut -c1-12)
	root_tar=$CACHE/$suite-$key.tar
	if [[ -s $root_tar ]]; then
		note "Debian $suite from $root_tar"
		return
	fi
	say "Debian $suite ($(wc -w <<<"$packages") packages and their dependencies), kept in $CACHE"
	mkdir -p "$CACHE"
	mmdebstrap --quiet --format=tar --variant=apt --mode=root --include="${packages// /,}" "$@" "$suite" "$root_tar.new"
	mv "$root_tar.new" "$root_tar"
}
