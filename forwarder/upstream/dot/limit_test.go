// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

func TestQueryLimit(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tc := range []struct {
		what string
		cuts []int
		want int
	}{
		{"nothing", nil, 0},
		{"once", []int{100}, 0},
		{"twice", []int{100, 100}, 100},
		{"nearly", []int{100, 93}, 100},
		{"nearly, in reverse order", []int{93, 100}, 100},
		{"far apart", []int{100, 40}, 0},
		{"far apart, then again", []int{100, 40, 41}, 41},
		{"a server in trouble", []int{3, 3, 3}, 0},
		{"trouble between", []int{100, 3, 100}, 100},
		{"another close between", []int{100, 100, 60}, 100},
		{"lower than thought", []int{100, 100, 60, 61}, 61},
		{"higher than thought", []int{60, 60, 100, 100}, 100},
	} {
		var l queryLimit
		for _, n := range tc.cuts {
			l.recordCut(n, start)
		}
		if got := l.at(start); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.what, got, tc.want)
		}
		if got := l.at(start.Add(limitTime)); got != 0 {
			t.Errorf("%s: %d after limitTime", tc.what, got)
		}
	}
	for _, err := range []error{io.EOF, syscall.ECONNRESET, syscall.EPIPE} {
		if !isCut(&transport.LostError{Err: err}) {
			t.Errorf("%v is not a cut", err)
		}
	}
	for _, err := range []error{transport.ErrSilent, conns.ErrIdle, errDrained, transport.ErrNetworkChanged, transport.ErrMalformed} {
		if isCut(err) {
			t.Errorf("%v is a cut", err)
		}
	}
}

// TestLimitIsDetected: a server closes each connection after a number of queries. The first
// two connections lose the queries in flight. From then on no query is lost, and the next
// connection is open before the limit of the previous one is reached.
func TestLimitIsDetected(t *testing.T) {
	const limit = 50
	s := servertest.Serve(t, dnstest.CloseAfter(limit, servertest.Zone(t)), nil)
	cl := newClient(t, s)
	burst := func() {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range limit {
					if _, err := servertest.Ask(t, cl, "www.example."); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	known := func() int {
		p := cl.pool
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.limit.at(time.Now())
	}
	// If the limit is underestimated, more connections are opened, but no query is lost.
	for end := time.Now().Add(20 * time.Second); known() == 0 && time.Now().Before(end); {
		burst()
	}
	if n := known(); n == 0 || n > limit {
		t.Fatalf("the estimated limit is %d, want %d or a little less", n, limit)
	}
	burst() // uses up the connections that were opened before
	before := cl.stats()
	burst()
	if st := cl.stats(); st.Lost != before.Lost || st.Resent != before.Resent || st.Failed != before.Failed {
		t.Errorf("%d lost and %d resent, want none: %+v", st.Lost-before.Lost, st.Resent-before.Resent, st)
	}
	cl.pool.Reset()
	if n := known(); n != 0 {
		t.Errorf("%d on a new network", n)
	}
}

// TestWriteError: if a write fails because the server reset the connection, replies that were
// sent before are still read; after another error the connection is closed.
func TestWriteError(t *testing.T) {
	for _, tc := range []struct {
		err    error
		resent uint64
	}{{syscall.EPIPE, 0}, {transport.ErrSilent, 1}} {
		z := servertest.Zone(t)
		release := make(chan struct{})
		sw := dnstest.NewSwitch(z)
		s := servertest.Serve(t, sw, nil)
		cl := newClient(t, s)
		servertest.MustAsk(t, cl, "www.example.")
		sw.Set(dnstest.Hold(release, z))
		done := make(chan error, 1)
		go func() {
			_, err := servertest.Ask(t, cl, "www.example.")
			done <- err
		}()
		servertest.Eventually(t, "it is in flight", func() bool { return s.Stats().Queries() >= 2 })
		c := cl.pool.firstConn()
		sw.Set(z)
		c.handleWriteError(tc.err)
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if st := cl.stats(); st.Resent != tc.resent || st.Lost != tc.resent {
			t.Errorf("%v: stats %+v, want %d resent", tc.err, st, tc.resent)
		}
		servertest.MustAsk(t, cl, "www.example.")
		if n := s.Stats().Conns; n != 2 {
			t.Errorf("%v: %d connections, want a second one", tc.err, n)
		}
	}
}
