// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"os"
	"strconv"
	"testing"
)

// sameQueries is how many random queries TestSameAnswers sends to each server. The environment
// variable SOTTO_TEST_HITS changes it.
const sameQueries = 600

// TestSameAnswers compares the kernel's replies with those of user space: random queries, usual ones
// and others, over IPv4 and IPv6.
func TestSameAnswers(t *testing.T) {
	n := sameQueries
	if text := os.Getenv("SOTTO_TEST_HITS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	w.Watch()
	w.configure()
	w.seal()
	for seed, server := range []string{"8.8.8.8", "2001:4860:4860::8888"} {
		before := w.answered()
		w.run(w.Host, "same", strconv.Itoa(n), strconv.Itoa(seed+1), "example", server)
		got := int(w.answered() - before)
		t.Logf("%s: %d queries, of which the kernel answered %d: %v", server, n, got, w.status().Seal.KernelAnswers.Verdicts)
		if got < n/5 {
			t.Errorf("%s: the kernel answered %d of %d queries: want a fifth at least", server, got, n)
		}
	}
}
