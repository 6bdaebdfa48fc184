#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds Sotto and runs `sotto demo`, which runs the same dig unsealed and sealed and compares packet captures. It runs in
# isolated network namespaces. Arguments are passed to `sotto demo`.
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
