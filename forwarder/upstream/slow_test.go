// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestSlowAnswers: servers that answer every query later than the silence timeout and the
// attempt timeout, but within the timeout, are waited for, without other traffic as well.
func TestSlowAnswers(t *testing.T) {
	for what, n := range map[string]int{"one server": 1, "two servers": 2, "three servers": 3} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var servers []*dnstest.Server
			for range n {
				servers = append(servers, servertest.Serve(t, dnstest.Delay(1300*time.Millisecond, servertest.Zone(t)), nil))
			}
			cfg := hasty(servers...)
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
