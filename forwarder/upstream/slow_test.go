// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// serveOver runs a server of that protocol.
func serveOver(t *testing.T, p transport.Protocol, h dnstest.Handler) Server {
	t.Helper()
	switch p {
	case transport.DoT:
		return Server{Addr: servertest.Serve(t, h, nil).Addr(), Name: servertest.Name}
	case transport.DoQ:
		return servertest.ServeQUIC(t, h, nil).Server()
	}
	return servertest.ServeWeb(t, p, h, nil).Server(p)
}

// TestSlowAnswers: servers that answer every query later than the silence timeout and the
// attempt timeout, but within the timeout, are waited for, without other traffic as well.
func TestSlowAnswers(t *testing.T) {
	for _, p := range []transport.Protocol{transport.DoT, transport.DoH, transport.DoH3, transport.DoQ} {
		for n := 1; n <= 2 || p == transport.DoT && n == 3; n++ {
			t.Run(fmt.Sprintf("%s/%d", p, n), func(t *testing.T) {
				t.Parallel()
				cfg := hasty()
				for range n {
					cfg.Servers = append(cfg.Servers, serveOver(t, p, dnstest.Delay(1300*time.Millisecond, servertest.Zone(t))))
				}
				cfg.Timeout, cfg.AttemptTimeout, cfg.SilentTimeout = 5*time.Second, 300*time.Millisecond, 400*time.Millisecond
				g := groupOf(t, cfg)
				for range 2 {
					r, err := servertest.Ask(t, g, "www.example.")
					if err != nil || wire.Rcode(r) != wire.RcodeSuccess {
						t.Errorf("%x, %v", r, err)
					}
				}
			})
		}
	}
}

// TestHangingConnection: a server that hangs on one connection is asked again on another
// one, in time.
func TestHangingConnection(t *testing.T) {
	t.Parallel()
	z := servertest.Zone(t)
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if r.Conn == 1 {
			return dnstest.Answer{}
		}
		return z.Answer(r)
	}), nil)
	cfg := hasty(s)
	cfg.Timeout, cfg.SilentTimeout = 9*time.Second, 300*time.Millisecond
	g := groupOf(t, cfg)
	if r, err := servertest.Ask(t, g, "www.example."); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
		t.Errorf("%x, %v", r, err)
	}
}

// TestHangingStreams is the same for servers whose queries have streams.
func TestHangingStreams(t *testing.T) {
	for _, p := range []transport.Protocol{transport.DoH, transport.DoH3, transport.DoQ} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			var first atomic.Pointer[string] // the address of the client of the first connection
			hangs := func(addr string) bool { return first.CompareAndSwap(nil, &addr) || *first.Load() == addr }
			var s Server
			if p == transport.DoQ {
				s = servertest.ServeQUIC(t, servertest.Zone(t), func(q *servertest.QUIC) {
					q.Intercept = func(c *quic.Conn, _ *quic.Stream, _ []byte) bool { return hangs(c.RemoteAddr().String()) }
				}).Server()
			} else {
				s = servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
					w.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
						if !hangs(r.RemoteAddr) {
							return false
						}
						<-r.Context().Done()
						return true
					}
				}).Server(p)
			}
			cfg := hasty()
			cfg.Servers = []Server{s}
			cfg.Timeout, cfg.SilentTimeout = 9*time.Second, 300*time.Millisecond
			if r, err := servertest.Ask(t, groupOf(t, cfg), "www.example."); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
				t.Errorf("%x, %v", r, err)
			}
		})
	}
}

// TestBareReplies: a reply without a question is taken for the error that it is, and no
// other rcode is accepted; another server is asked at once, and without one the query fails
// at once.
func TestBareReplies(t *testing.T) {
	good := servertest.Serve(t, servertest.Zone(t), nil)
	for _, tc := range []struct {
		rcode int
		taken bool
	}{
		{dnstest.RcodeServFail, true}, {dnstest.RcodeRefused, true}, {dnstest.RcodeNotImp, true}, {dnstest.RcodeFormErr, true},
		{dnstest.RcodeSuccess, false}, {dnstest.RcodeNXDomain, false}, {int(wire.RcodeYXDomain), false}, {9, false},
	} {
		bad := servertest.Serve(t, dnstest.HeaderOnly(uint8(tc.rcode)), nil)
		cfg := hasty(bad)
		cfg.Timeout = time.Minute // it fails before
		r, err := servertest.Ask(t, groupOf(t, cfg), "www.example.")
		if tc.taken && (err != nil || int(wire.Rcode(r)) != tc.rcode) {
			t.Errorf("rcode %d: %x, %v", tc.rcode, r, err)
		}
		if !tc.taken {
			servertest.WantEDE(t, err, wire.EDENetworkError, "not a reply to the query")
		}
		g := group(t, bad, good)
		if r := servertest.MustAsk(t, g, "www.example."); wire.Rcode(r) != wire.RcodeSuccess {
			t.Errorf("rcode %d, beside a good server: %x", tc.rcode, r)
		}
		if st := g.Stats().Servers[0]; st.LastError != "" {
			t.Errorf("rcode %d: the server counts as failed: %s", tc.rcode, st.LastError)
		}
	}
}
