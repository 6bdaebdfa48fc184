// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestPickCountsQueries: a query counts as load of the connection that it picked, even
// before it is sent: a burst of queries opens a second connection, and then uses it.
func TestPickCountsQueries(t *testing.T) {
	cl := newClient(t, servertest.Serve(t, servertest.Zone(t), nil))
	servertest.MustAsk(t, cl, "www.example.")
	first := cl.pool.firstConn()
	pick := func() *conn {
		w := transport.NewTimer()
		defer w.Stop()
		c, err := cl.pool.conns.Reserve(t.Context(), servertest.Deadline(), w)
		if err != nil {
			t.Error(err)
		}
		return c
	}
	var wg sync.WaitGroup
	for range conns.BusyLoad {
		wg.Go(func() {
			if c := pick(); c != first {
				t.Error("another connection was picked while the first was not busy")
			}
		})
	}
	wg.Wait()
	if st := cl.stats(); st.InFlight != conns.BusyLoad || st.Dials != 1 {
		t.Errorf("stats %+v, want %d queries on one connection", st, conns.BusyLoad)
	}
	picked := []*conn{pick()}
	servertest.Eventually(t, "two connections are open", func() bool { return cl.stats().Conns == 2 })
	for range conns.BusyLoad {
		picked = append(picked, pick())
	}
	for i, c := range picked {
		if (c == first) != (i == 0) {
			t.Errorf("pick %d: the first connection: %v", i, c == first)
		}
		c.release()
	}
	for range conns.BusyLoad {
		first.release()
	}
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.InFlight != 0 || st.Dials != 2 {
		t.Errorf("stats %+v, want nothing in flight, and two connections", st)
	}
}

// TestLoadIsReleased: however a query ends, it no longer counts as load.
func TestLoadIsReleased(t *testing.T) {
	for _, tc := range []struct {
		what string
		h    dnstest.Handler
		do   func(c *conn, cancel func())
		want error // nil if there is a reply
	}{
		{"reply", servertest.Zone(t), func(*conn, func()) {}, nil},
		{"closed before", servertest.Zone(t), func(c *conn, _ func()) { c.Close(conns.ErrIdle) }, errConnClosed},
		{"draining", servertest.Zone(t), func(c *conn, _ func()) { c.draining.Store(true) }, errConnClosed},
		{"full", servertest.Zone(t), func(c *conn, _ func()) { c.table.limit = 0 }, transport.ErrOverloaded},
		{"canceled", dnstest.Silent(), func(_ *conn, cancel func()) { cancel() }, context.Canceled},
		{"timeout", dnstest.Silent(), func(*conn, func()) {}, transport.ErrTimeout},
		{"lost", dnstest.Silent(), func(c *conn, _ func()) {
			time.AfterFunc(20*time.Millisecond, func() { c.Close(transport.ErrSilent) })
		}, transport.ErrSilent},
	} {
		t.Run(tc.what, func(t *testing.T) {
			cl := newClient(t, servertest.Serve(t, tc.h, nil))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := transport.NewTimer()
			defer w.Stop()
			c, err := cl.pool.conns.Reserve(ctx, servertest.Deadline(), w)
			if err != nil {
				t.Fatal(err)
			}
			if n := c.load.Load(); n != 1 {
				t.Errorf("the load is %d after one pick", n)
			}
			tc.do(c, cancel)
			q := servertest.Query("www.example.", dnstest.TypeA)
			if _, err := c.roundTrip(ctx, q, time.Now().Add(200*time.Millisecond), w); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if n := c.load.Load(); n != 0 {
				t.Errorf("the load is %d at the end", n)
			}
		})
	}
}
