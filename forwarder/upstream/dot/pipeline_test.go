// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestManyCallers: 1,000 concurrent callers share at most two connections, and each gets its
// own answer, in whatever order the server answers.
func TestManyCallers(t *testing.T) {
	z := servertest.Zone(t)
	const n = 1000
	release := make(chan struct{})
	s := servertest.Serve(t, dnstest.Hold(release, z), func(c *dnstest.Config) { c.LogQueries = 2 * n })
	cl := newClient(t, s)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _, _ = servertest.Ask(t, cl, fmt.Sprintf("n%d.example.", i)) })
	}
	servertest.Eventually(t, "all are in flight", func() bool { return s.Stats().Queries() >= n })
	if st := cl.stats(); st.InFlight != n || st.Conns > 2 {
		t.Errorf("stats %+v, want %d in flight on two connections", st, n)
	}
	close(release)
	wg.Wait()
	st := s.Stats()
	if st.Conns > 2 {
		t.Errorf("%d connections, want at most 2", st.Conns)
	}
	if cl := cl.stats(); cl.Replies != n || cl.InFlight != 0 || cl.Strays != 0 {
		t.Errorf("stats %+v, want %d replies", cl, n)
	}
	type connID struct {
		conn uint64
		id   uint16
	}
	seen := make(map[connID]bool)
	for _, q := range s.Log() {
		k := connID{q.Conn, wire.ID(q.Query)}
		if seen[k] {
			t.Errorf("ID %d is in flight twice on connection %d", k.id, k.conn)
		}
		seen[k] = true
		if len(q.Query)%128 != 0 {
			t.Errorf("a query of %d bytes is not padded", len(q.Query))
		}
	}
}

// TestOutOfOrder: a slow name does not delay the queries behind it.
func TestOutOfOrder(t *testing.T) {
	z := servertest.Zone(t)
	release := make(chan struct{})
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("slow")) {
			a.Wait = release
		}
		return a
	}), nil)
	cl := newClient(t, s)
	slow := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, cl, "slow.example.")
		slow <- err
	}()
	servertest.Eventually(t, "the slow query is in flight", func() bool { return s.Stats().Queries() >= 1 })
	for range 10 {
		servertest.MustAsk(t, cl, "fast.example.")
	}
	select {
	case err := <-slow:
		t.Fatalf("the slow query ended: %v", err)
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

// TestCoalescing: queries that are pending together leave in one write, each in a record of
// its own, because nsd answers only the first of a record until more data arrives.
func TestCoalescing(t *testing.T) {
	const n = 100
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	c := cl.pool.firstConn()
	before, writes := s.Stats().Reads, cl.stats().Writes

	// Hold the lock until all queries are queued.
	q := servertest.Query("www.example.", dnstest.TypeA)
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
		c.out = appendQuery(c.out, q, id)
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
	if got := cl.stats().Writes - writes; got != 1 {
		t.Errorf("they were sent in %d writes, want 1", got)
	}
}

// TestLargeReplies: replies up to the maximum length, concurrently.
func TestLargeReplies(t *testing.T) {
	z := servertest.Zone(t)
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("huge")) {
			a.Msg = append(a.Msg, make([]byte, wire.MaxMessage-len(a.Msg))...)
		}
		return a
	}), nil)
	cl := newClient(t, s)
	var wg sync.WaitGroup
	for name, want := range map[string]int{"huge.example.": 65535, "txt-65000.example.": 65000, "txt-20000.example.": 20000, "txt-100.example.": 100} {
		for range 10 {
			wg.Go(func() {
				q := servertest.Query(name, dnstest.TypeTXT)
				r, err := cl.Exchange(t.Context(), q, servertest.Deadline())
				if err != nil || len(r) < want || !wire.SameQuestion(q, r) {
					t.Errorf("%s: %d bytes, %v", name, len(r), err)
				}
			})
		}
	}
	wg.Wait()
}

// TestFull: queries over a connection's limit fail at once, and are not recorded as failures
// of the server.
func TestFull(t *testing.T) {
	release := make(chan struct{})
	s := servertest.Serve(t, dnstest.Hold(release, servertest.Zone(t)), nil)
	cl := clientOf(t, transport.Config{Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, MaxConns: 1, MaxInflight: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _ = servertest.Ask(t, cl, "www.example.") })
	}
	servertest.Eventually(t, "two are in flight", func() bool { return s.Stats().Queries() >= 2 })
	_, err := servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDEOther, "too many queries in flight")
	if st := cl.stats(); st.LastError != "" {
		t.Errorf("a failure was recorded: %+v", st)
	}
	close(release)
	wg.Wait()
}
