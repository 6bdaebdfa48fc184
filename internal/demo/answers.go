// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"slices"
	"strings"
)

// answers is the parsed output of a client: the records without their TTLs, which
// decrease in a cache, and the nameservers that the client names as their source.
type answers struct{ records, servers []string }

// parseAnswers parses the output of dig +noall +answer +stats or of Ask.
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

// diff describes the first difference of b from a; "" if they are equal.
func (a answers) diff(b answers) string {
	if !slices.Equal(a.servers, b.servers) {
		return fmt.Sprintf("answered by %q, want %q", b.servers, a.servers)
	}
	if !slices.Equal(a.records, b.records) {
		return fmt.Sprintf("records %q, want %q", b.records, a.records)
	}
	return ""
}
