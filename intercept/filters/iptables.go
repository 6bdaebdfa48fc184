// SPDX-License-Identifier: Apache-2.0

package filters

import (
	"os"
	"slices"
	"strings"
)

// Legacy reports for which families the calling thread's network namespace has a filter table
// of iptables-legacy. nftables does not list those, and they cannot be examined further here.
func Legacy() (v4, v6 bool) { return hasLegacy("ip_tables_names"), hasLegacy("ip6_tables_names") }

func hasLegacy(file string) bool {
	text, err := os.ReadFile("/proc/thread-self/net/" + file)
	return err == nil && slices.Contains(strings.Fields(string(text)), "filter") // no such file: no iptables-legacy
}
