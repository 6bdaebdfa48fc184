// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// TestKernelAnswersOff checks that the kernel does not answer where each query is recorded.
func TestKernelAnswersOff(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		`kernel-answers = "off"`: "kernel-answers",
		"cache-mib = 0":          "cache-mib",
		"log-queries = true":     "log-queries",
		`query-log = "/tmp/log"`: "query-log",
		`query-log = "/tmp/log"` + "\nquery-log-sample = 100":                 "query-log",
		`dnstap-file = "/tmp/tap"`:                                            "dnstap-messages",
		`dnstap-file = "/tmp/tap"` + "\n" + `dnstap-messages = ["forwarder"]`: "",
	} {
		s, err := Parse("test", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Plan(Options{Read: func(string) ([]byte, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.KernelAnswers.Off(&p); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}
