// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// hostileNames answers like the zone after a moment, except for names that start with
// "close", for which it closes the connection, and "query", to which it sends the query
// itself.
func hostileNames(t *testing.T) dnstest.Handler {
	z := servertest.Zone(t)
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		switch label := bytes.ToLower(r.Query[wire.HeaderLen+1:]); {
		case bytes.HasPrefix(label, []byte("close")):
			return dnstest.Answer{Then: dnstest.Close}
		case bytes.HasPrefix(label, []byte("query")):
			a.Msg = bytes.Clone(r.Query)
		case bytes.HasPrefix(label, []byte("header")):
			a.Msg = a.Msg[:wire.HeaderLen]
			copy(a.Msg[4:], make([]byte, 8))
		case bytes.HasPrefix(label, []byte("short")):
			a.Msg = a.Msg[:5]
		}
		a.Delay = 5 * time.Millisecond
		return a
	})
}

// TestNameThatCloses: queries for a name for which the server closes the connection do not
// make others fail. That name fails with the reason, is then kept off their connections,
// and few connections are needed.
func TestNameThatCloses(t *testing.T) {
	for _, prefix := range []string{"close", "query", "header", "short"} {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			s := servertest.Serve(t, hostileNames(t), nil)
			cl := newClient(t, s)
			servertest.MustAsk(t, cl, "www.example.")
			want := transport.ErrUnusable
			if prefix == "close" {
				want = transport.ErrNameCloses
			}
			bad := func() {
				if _, err := servertest.Ask(t, cl, prefix+".example."); !errors.Is(err, want) {
					t.Errorf("the name fails with %v, want %v", err, want)
				}
			}
			var wg sync.WaitGroup
			for i := range 120 {
				wg.Go(func() {
					if i == 60 {
						bad()
						return
					}
					for j := range 5 {
						if r, err := servertest.Ask(t, cl, fmt.Sprintf("n%d-%d.example.", i, j)); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
							t.Errorf("a neighbour: %x, %v", r, err)
						}
					}
				})
			}
			wg.Wait()
			before := cl.stats()
			t.Logf("%d connections, %d queries sent again", before.Dials, before.Resent)
			if prefix != "close" && before.Dials > 3 || before.Dials > 3+4*lanes {
				t.Errorf("%d connections", before.Dials)
			}
			// From now on the name has a connection of its own.
			done := make(chan struct{})
			var lost atomic.Uint64
			wg.Go(func() {
				defer close(done)
				for range 5 {
					bad()
				}
				lost.Store(cl.stats().Lost - before.Lost)
			})
			for i := 0; ; i++ {
				servertest.MustAsk(t, cl, fmt.Sprintf("m%d.example.", i))
				select {
				case <-done:
				default:
					continue
				}
				break
			}
			wg.Wait()
			if n := lost.Load(); n > 5 {
				t.Errorf("%d queries were lost with the name's five", n)
			}
		})
	}
}

// TestNameThatClosesAlone: without other traffic, a probe shows that the server works.
func TestNameThatClosesAlone(t *testing.T) {
	s := servertest.Serve(t, hostileNames(t), nil)
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	for range 2 {
		if _, err := servertest.Ask(t, cl, "CLOSE.example."); err == nil {
			t.Fatal("it was answered")
		}
		if _, err := servertest.Ask(t, cl, "close.example."); !errors.Is(err, transport.ErrNameCloses) {
			t.Errorf("it fails with %v", err)
		}
	}
	if st := cl.stats(); st.Dials > 15 {
		t.Errorf("%d connections", st.Dials)
	}
}

// TestServerThatClosesAll: a server that stops to answer, and closes every connection, is
// not taken for one that works.
func TestServerThatClosesAll(t *testing.T) {
	z := servertest.Zone(t)
	var closes atomic.Bool
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if closes.Load() {
			return dnstest.Answer{Then: dnstest.Close}
		}
		return z.Answer(r)
	}), nil)
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	closes.Store(true)
	if _, err := servertest.Ask(t, cl, "www.example."); !transport.IsLost(err) || errors.Is(err, transport.ErrNameCloses) {
		t.Errorf("it fails with %v", err)
	}
	closes.Store(false)
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Dials > 16 {
		t.Errorf("%d connections", st.Dials)
	}
}
