// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
)

// TestTrickle: a server that keeps sending a little, but never a reply, is not considered
// silent. It delays a query no longer than any other server does.
func TestTrickle(t *testing.T) {
	for _, tc := range []struct {
		what        string
		first, then []byte
		code        uint16
		reason      string
	}{
		{"a long frame, byte by byte", []byte{0xff, 0xff}, []byte{0}, wire.EDENoReachableAuthority, "no answer within "},
		{"replies to no query", nil, servertest.Stray(), wire.EDENetworkError, "do not match"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			trickle := func(c *tls.Conn) {
				for _, err := c.Write(tc.first); err == nil; _, err = c.Write(tc.then) {
					time.Sleep(20 * time.Millisecond)
				}
			}
			bad := servertest.ServeConns(t, nil, trickle)
			worst := time.Duration(0)
			g := groupOf(t, hasty(bad, servertest.Serve(t, servertest.Zone(t), nil)))
			for n := range 5 {
				started := time.Now()
				servertest.MustAsk(t, g, fmt.Sprintf("n%d.example.", n))
				worst = max(worst, time.Since(started))
			}
			started := time.Now()
			_, err := servertest.Ask(t, groupOf(t, hasty(bad)), "www.example.")
			servertest.WantEDE(t, err, tc.code, tc.reason)
			t.Logf("with a second server a query took %v at most; alone it failed after %v",
				worst.Round(time.Millisecond), time.Since(started).Round(time.Millisecond))
		})
	}
}

// TestStopsReadingElsewhere: queries to a server that stops reading are answered by
// another one, and none stays in flight.
func TestStopsReadingElsewhere(t *testing.T) {
	s := servertest.ServeConns(t, servertest.SmallBuffers(t), func(*tls.Conn) { <-t.Context().Done() })
	cfg := patient(order.Failover, s, servertest.Serve(t, servertest.Zone(t), nil)) // the machine may be busy
	cfg.SilentTimeout = 2 * time.Second
	cfg.Control = func(network, address string, c syscall.RawConn) error {
		if address != s.Addr().String() {
			return nil
		}
		return servertest.SmallBuffer(network, address, c)
	}
	g := groupOf(t, cfg)
	g.endpoints[0].transport.Maintain(t.Context(), time.Now(), true)
	servertest.Eventually(t, "it is connected", func() bool { return g.Stats().Servers[0].Conns == 1 })
	var wg sync.WaitGroup
	for n := range 500 { // 75 kB, at once: before its silence is noticed
		wg.Go(func() {
			if _, err := servertest.Ask(t, g, fmt.Sprintf("n%d.example.", n)); err != nil {
				t.Errorf("an error: %v", err)
			}
		})
	}
	wg.Wait()
	servertest.Eventually(t, "nothing is in flight", func() bool { return g.Stats().Servers[0].InFlight == 0 })
}
