// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestThousand: 1,000 callers at once share at most two connections, and each
// gets its own answer, although the server answers in reverse order.
func TestThousand(t *testing.T) {
	z := zone(t)
	const n = 1000
	release := make(chan struct{})
	s := serve(t, dnstest.Hold(release, z), func(c *dnstest.Config) { c.LogQueries = 2 * n })
	g := group(t, s)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _, _ = ask(t, g, fmt.Sprintf("n%d.example.", i)) })
	}
	eventually(t, "all are in flight", func() bool { return s.Stats().Queries() == n })
	if st := g.Stats().Servers[0]; st.InFlight != n || st.Conns > 2 {
		t.Errorf("stats %+v, want %d in flight on two connections", st, n)
	}
	close(release)
	wg.Wait()
	st := s.Stats()
	if st.Conns > 2 {
		t.Errorf("%d connections, want at most 2", st.Conns)
	}
	if g := g.Stats().Servers[0]; g.Replies != n || g.InFlight != 0 || g.Strays != 0 {
		t.Errorf("stats %+v, want %d replies", g, n)
	}
	type connID struct {
		conn uint64
		id   uint16
	}
	seen := make(map[connID]bool)
	for _, q := range s.Log() {
		k := connID{q.Conn, wire.ID(q.Query)}
		if seen[k] {
			t.Errorf("ID %d is twice in flight on connection %d", k.id, k.conn)
		}
		seen[k] = true
		if len(q.Query)%128 != 0 {
			t.Errorf("a query of %d bytes is not padded", len(q.Query))
		}
	}
}

// TestOutOfOrder: a slow name holds up nobody behind it.
func TestOutOfOrder(t *testing.T) {
	z := zone(t)
	release := make(chan struct{})
	s := serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("slow")) {
			a.Wait = release
		}
		return a
	}), nil)
	g := group(t, s)
	slow := make(chan error, 1)
	go func() {
		_, err := ask(t, g, "slow.example.")
		slow <- err
	}()
	eventually(t, "the slow one is asked", func() bool { return s.Stats().Queries() == 1 })
	for range 10 {
		mustAsk(t, g, "fast.example.")
	}
	select {
	case err := <-slow:
		t.Fatalf("the slow one ended: %v", err)
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Conns != 1 {
		t.Errorf("%d connections, want 1", st.Conns)
	}
}

// TestCoalescing: queries that wait together leave in one write, each in a record
// of its own: nsd answers only the first of a record until more comes.
func TestCoalescing(t *testing.T) {
	const n = 100
	s := serve(t, zone(t), nil)
	g := group(t, s)
	mustAsk(t, g, "www.example.")
	c := poolOf(g).conns[0]
	before, writes := s.Stats().Reads, g.Stats().Servers[0].Writes

	// Hold up the writer's next look at the queue until all are in it.
	q := query("www.example.", typeA)
	ks := make([]*call, n)
	c.mu.Lock()
	for i := range ks {
		ks[i] = calls.Get().(*call)
		ks[i].query = q
		id, ok := c.table.add(ks[i])
		if !ok {
			t.Fatal("the table is full")
		}
		c.load.Add(1)
		c.out = appendFrame(c.out, q, id)
	}
	c.mu.Unlock()
	c.wake <- struct{}{}
	for _, k := range ks {
		<-k.done
		if k.err != nil {
			t.Error(k.err)
		}
	}
	if got := s.Stats().Reads - before; got != n {
		t.Errorf("the server read %d records, want %d", got, n)
	}
	// 100 queries of 130 bytes are 13,000: one write.
	if got := g.Stats().Servers[0].Writes - writes; got != 1 {
		t.Errorf("they left in %d writes, want 1", got)
	}
}

// TestLargeReplies: up to the longest message, many at once.
func TestLargeReplies(t *testing.T) {
	z := zone(t)
	s := serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("huge")) {
			a.Msg = append(a.Msg, make([]byte, wire.MaxMessage-len(a.Msg))...)
		}
		return a
	}), nil)
	g := group(t, s)
	var wg sync.WaitGroup
	for name, want := range map[string]int{"huge.example.": 65535, "txt-65000.example.": 65000, "txt-20000.example.": 20000, "txt-100.example.": 100} {
		for range 10 {
			wg.Go(func() {
				q := query(name, typeTXT)
				r, err := g.Exchange(t.Context(), q, inAWhile())
				if err != nil || len(r) < want || !wire.SameQuestion(q, r) {
					t.Errorf("%s: %d bytes, %v", name, len(r), err)
				}
			})
		}
	}
	wg.Wait()
}

// TestFull: what is over a connection's limit fails at once, and is nobody's
// fault.
func TestFull(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, dnstest.Hold(release, zone(t)), nil)
	g := groupOf(t, Config{Servers: []Server{{Addr: s.Addr(), Name: testName}}, MaxConns: 1, MaxInflight: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _ = ask(t, g, "www.example.") })
	}
	eventually(t, "two are in flight", func() bool { return s.Stats().Queries() == 2 })
	_, err := ask(t, g, "www.example.")
	wantEDE(t, err, wire.EDEOther, "too many queries in flight")
	if st := g.Stats().Servers[0]; st.LastError != "" {
		t.Errorf("the server is held to fail: %+v", st)
	}
	close(release)
	wg.Wait()
}
