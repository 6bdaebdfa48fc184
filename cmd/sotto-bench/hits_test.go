// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"
	"time"

	"sotto/internal/dnstest"
)

// TestHits: one query at a time, batches from two threads, and datagrams to oneself. Each answer
// is counted, with a time.
func TestHits(t *testing.T) {
	_, addr := serve(t, zone(t))
	self := netip.MustParseAddrPort("127.0.0.1:0")
	for name, l := range map[string]hitLoad{
		"single": {server: addr, names: 3, length: 100 * time.Millisecond, threads: 1, batch: 1},
		"batch":  {server: addr, names: 3, length: 100 * time.Millisecond, threads: 2, batch: 5},
		"self":   {self: self, names: 1, length: 50 * time.Millisecond, threads: 1, batch: 1},
		"selves": {self: self, names: 1, length: 50 * time.Millisecond, threads: 2, batch: 8},
	} {
		o, err := l.run(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if o.answers == 0 || o.lost != 0 || len(o.trips)*l.batch != o.answers || o.busy < 0 || o.elapsed <= 0 {
			t.Errorf("%s: %d answers, %d lost, %d times, %v of CPU in %v", name, o.answers, o.lost, len(o.trips), o.busy, o.elapsed)
		}
	}
}

// TestHitsFailures: errors are lost queries, not answers.
func TestHitsFailures(t *testing.T) {
	_, addr := serve(t, dnstest.Rcode(dnstest.RcodeServFail))
	for _, batch := range []int{1, 4} {
		o, err := hitLoad{server: addr, names: 1, length: 50 * time.Millisecond, threads: 1, batch: batch}.run(t.Context())
		if err != nil || o.answers != 0 || o.lost == 0 {
			t.Errorf("batches of %d: %d answers, %d lost, %v", batch, o.answers, o.lost, err)
		}
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  100 20 3 9999 7 40 5 6 0 0\n")
	if err != nil || got != 1680*time.Millisecond {
		t.Errorf("%v, %v; want 1.68s", got, err)
	}
	for _, line := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7", "cpu a b c d e f g"} {
		if _, err := parseBusy(line); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}
