#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds Sotto and shows its main job: the same dig, unsealed and sealed, with what crossed the wire each time.
# Everything happens in network namespaces with no way out. Arguments go to `sotto demo`.
#
#   sudo ./scripts/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_root
ensure_go
say "go build"
build
say "sotto demo"
bin/sotto demo "$@"
