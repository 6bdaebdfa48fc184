// SPDX-License-Identifier: Apache-2.0

// Package labtest provides internal/netlab to tests. Labs and cgroups are removed when the
// test ends, even if it fails. Tests are skipped with a reason if they lack root or a
// program; with SOTTO_REQUIRE_PRIVILEGED=1, which scripts/test.sh sets, they fail instead.
package labtest
