#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs in the room: makes the LAN's bridge, and then keeps the room's namespaces.
set -euo pipefail
ip link add lan type bridge
ip link set lan up
: >"$1/room.ready"
exec sleep infinity
