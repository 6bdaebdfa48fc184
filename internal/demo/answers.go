// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"slices"
	"strings"
)

// answers is what a client printed: the records, without the TTL, which counts
// down in a cache, and the nameservers that it says they came from.
type answers struct{ records, servers []string }

// parseAnswers reads the output of dig +noall +answer +stats, or of Ask.
func parseAnswers(output string) answers {
	var a answers
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if server, ok := strings.CutPrefix(line, ";; SERVER: "); ok {
			a.servers = append(a.servers, server)
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 5 || strings.HasPrefix(line, ";") || fields[2] != "IN" {
			continue
		}
		fields = append(fields[:1], fields[2:]...)
		a.records = append(a.records, strings.Join(fields, " "))
	}
	slices.Sort(a.records)
	return a
}

// differs tells the first difference, "" if there is none.
func (a answers) differs(b answers) string {
	if !slices.Equal(a.servers, b.servers) {
		return fmt.Sprintf("from %q, want from %q", b.servers, a.servers)
	}
	if !slices.Equal(a.records, b.records) {
		return fmt.Sprintf("%q, want %q", b.records, a.records)
	}
	return ""
}
