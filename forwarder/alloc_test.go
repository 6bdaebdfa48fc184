// SPDX-License-Identifier: Apache-2.0

//go:build !race

package forwarder

import (
	"net/netip"
	"testing"
	"time"

	"sotto/forwarder/wire"
)

// TestHitAllocates checks that a hit allocates nothing between receiving and sending.
// It is not built with the race detector, whose own allocations would be counted.
func TestHitAllocates(t *testing.T) {
	f, err := New(t.Context(), Config{Upstream: newZoneUpstream(t), Cache: newCache(t),
		Route: func(q *wire.Query, _ *Origin) Route { return Route{Scope: "a group", Rule: int(q.Type)} }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cookie := withCookie("www.example.com", "0123456789abcdef")
	packed, err := cookie.Pack()
	if err != nil {
		t.Fatal(err)
	}
	queries := [][]byte{fill(t, f, "www.example.com."), packed}
	out, now := make([]byte, 0, wire.UDPSize), time.Now()
	var r request // a listener reuses one per message of a batch
	for _, query := range queries {
		n := testing.AllocsPerRun(1000, func() {
			r = request{start: now}
			if _, v := f.answer(out, query, netip.Addr{}, &r); v != answered {
				t.Fatal("a miss")
			}
		})
		if n != 0 {
			t.Errorf("a hit allocates %v times", n)
		}
	}
}

// TestLocalAnswersAllocate checks that an answer of a rule allocates no more than a refusal.
func TestLocalAnswersAllocate(t *testing.T) {
	f, err := New(t.Context(), Config{Upstream: newZoneUpstream(t), Route: byLabel(localRoutes(t))})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := make([]byte, 0, wire.UDPSize)
	var r request
	count := func(name string, typ uint16) float64 {
		m := question(name, typ)
		m.SetEdns0(1232, false)
		query, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(1000, func() {
			r = request{}
			if _, v := f.answer(out, query, netip.Addr{}, &r); v != answered {
				t.Fatal(name, v)
			}
		})
	}
	most := count("bad.example", wire.TypeA)
	for _, name := range []string{"nx.example", "null.example", "four.example", "printer.example", "empty.example"} {
		for _, typ := range []uint16{wire.TypeA, wire.TypeAAAA} {
			if n := count(name, typ); n > most {
				t.Errorf("%s: %v allocations; a refusal has %v", name, n, most)
			}
		}
	}
}
