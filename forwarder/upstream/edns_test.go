// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// rejections are the ways in which servers reject EDNS, by name.
var rejections = map[string]dnstest.Handler{
	"FORMERR with the question":     noOPT(dnstest.RcodeFormErr),
	"FORMERR with the OPT":          dnstest.Rcode(dnstest.RcodeFormErr),
	"FORMERR with a header only":    dnstest.HeaderOnly(dnstest.RcodeFormErr),
	"NOTIMP with the question":      noOPT(dnstest.RcodeNotImp),
	"NOTIMP with a header only":     dnstest.HeaderOnly(dnstest.RcodeNotImp),
	"BADVERS with the question":     badVers(false),
	"BADVERS with a header and OPT": badVers(true),
}

// noOPT answers with the question and the rcode.
func noOPT(rcode uint8) dnstest.Handler {
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		plain := *r
		if bare, ok := wire.AppendWithoutOPT(nil, r.Query); ok {
			plain.Query = bare
		}
		return dnstest.Rcode(rcode).Answer(&plain)
	})
}

// TestEDNSRejected: a server that does not support EDNS is asked without it, and the
// caller gets its answer. Later queries are sent without OPT at once.
func TestEDNSRejected(t *testing.T) {
	for what, reject := range rejections {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := servertest.Serve(t, dnstest.RejectOPT(reject, servertest.Zone(t)), nil)
			var out servertest.LogBuffer
			cfg := hasty(s)
			cfg.Log = slog.New(slog.NewTextHandler(&out, nil))
			g := groupOf(t, cfg)
			for i, name := range []string{"www.example.", "a.example.", "b.example."} {
				reply := servertest.MustAsk(t, g, name)
				if wire.Rcode(reply) != wire.RcodeSuccess {
					t.Errorf("%s: rcode %d", name, wire.Rcode(reply))
				}
				if got, want := s.Stats().Queries(), uint64(i+2); got != want {
					t.Errorf("%s: the server has received %d queries, want %d", name, got, want)
				}
			}
			if st := g.Stats().Servers[0]; st.Failed != 0 || st.LastError != "" || st.Dials != 1 {
				t.Errorf("stats %+v: want no failure, and one connection", st)
			}
			if n := bytes.Count([]byte(out.String()), []byte("rejects EDNS")); n != 1 {
				t.Errorf("logged %d times, want once:\n%s", n, out.String())
			}
		})
	}
}

// TestEDNSRejectedForAWhile: a server that rejects EDNS is asked with it again after
// [Config.NoEDNSTime], or when the network has changed.
func TestEDNSRejectedForAWhile(t *testing.T) {
	for _, networkChanged := range []bool{false, true} {
		z := servertest.Zone(t)
		var withOPT atomic.Int64
		counted := dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
			if _, ok := wire.AppendWithoutOPT(nil, r.Query); ok {
				withOPT.Add(1)
			}
			return z.Answer(r)
		})
		h := dnstest.NewSwitch(dnstest.RejectOPT(dnstest.HeaderOnly(dnstest.RcodeFormErr), counted))
		cfg := hasty(servertest.Serve(t, h, nil))
		cfg.NoEDNSTime = 300 * time.Millisecond
		if networkChanged {
			cfg.NoEDNSTime = time.Hour
		}
		g := groupOf(t, cfg)
		started := time.Now()
		servertest.MustAsk(t, g, "www.example.")
		h.Set(counted)
		servertest.MustAsk(t, g, "a.example.")
		if withOPT.Load() != 0 && time.Since(started) < cfg.NoEDNSTime {
			t.Error("the rejection was forgotten at once")
		}
		if networkChanged {
			g.NetworkChanged()
		} else {
			time.Sleep(cfg.NoEDNSTime)
		}
		withOPT.Store(0)
		for _, name := range []string{"b.example.", "c.example."} {
			servertest.MustAsk(t, g, name)
		}
		if n := withOPT.Load(); n != 2 {
			t.Errorf("network changed: %v: %d queries with OPT, want 2", networkChanged, n)
		}
	}
}

// TestEDNSRejectedUnderLoad: queries in flight together are all answered, and the state is
// logged once.
func TestEDNSRejectedUnderLoad(t *testing.T) {
	s := servertest.Serve(t, dnstest.Delay(30*time.Millisecond, dnstest.RejectOPT(noOPT(dnstest.RcodeFormErr), servertest.Zone(t))), nil)
	var out servertest.LogBuffer
	cfg := hasty(s)
	cfg.Log = slog.New(slog.NewTextHandler(&out, nil))
	g := groupOf(t, cfg)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r, err := servertest.Ask(t, g, "www.example."); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
				t.Errorf("reply %x, %v", r, err)
			}
		})
	}
	wg.Wait()
	if n := bytes.Count([]byte(out.String()), []byte("rejects EDNS")); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, out.String())
	}
}

// TestRejectedAnyway: an error that does not depend on EDNS is returned, and queries keep
// their OPT record. NOTIMP with an OPT record is not retried: the server supports EDNS.
func TestRejectedAnyway(t *testing.T) {
	for _, tc := range []struct {
		what    string
		h       dnstest.Handler
		rcode   uint16
		queries uint64
	}{
		{"FORMERR", noOPT(dnstest.RcodeFormErr), wire.RcodeFormErr, 4},
		{"NOTIMP without OPT", dnstest.HeaderOnly(dnstest.RcodeNotImp), wire.RcodeNotImp, 4},
		{"NOTIMP with OPT", dnstest.Rcode(dnstest.RcodeNotImp), wire.RcodeNotImp, 2},
		{"REFUSED", noOPT(dnstest.RcodeRefused), wire.RcodeRefused, 2},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := servertest.Serve(t, tc.h, nil)
			g := groupOf(t, hasty(s))
			for range 2 {
				if r := servertest.MustAsk(t, g, "www.example."); wire.Rcode(r) != tc.rcode {
					t.Errorf("rcode %d, want %d", wire.Rcode(r), tc.rcode)
				}
			}
			if n := s.Stats().Queries(); n != tc.queries {
				t.Errorf("%d queries, want %d", n, tc.queries)
			}
		})
	}
}

// TestUnsignedReply: if a query wants signatures, a server without EDNS decides its result
// only if no other server does better.
func TestUnsignedReply(t *testing.T) {
	m := new(dns.Msg)
	m.SetQuestion("www.example.", dns.TypeA)
	m.SetEdns0(1232, true)
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(packed)
	if err != nil {
		t.Fatal(err)
	}
	do := wire.AppendQuery(nil, &q)
	old := servertest.Serve(t, dnstest.RejectOPT(noOPT(dnstest.RcodeFormErr), servertest.Zone(t)), nil)
	good := servertest.Serve(t, servertest.Zone(t), nil)
	for _, tc := range []struct {
		cfg    Config
		signed bool
	}{{hasty(old, good), true}, {hasty(old), false}} {
		g := groupOf(t, tc.cfg)
		for range 2 {
			msg, err := g.Exchange(t.Context(), do, servertest.Deadline())
			if err != nil {
				t.Fatal(err)
			}
			if r, err := wire.ParseReply(msg); err != nil || r.Rcode != 0 || r.EDNS != tc.signed {
				t.Errorf("reply %+v, %v: want OPT: %v", r, err, tc.signed)
			}
		}
		// Without DO the first server is good enough.
		if r, err := wire.ParseReply(servertest.MustAsk(t, g, "a.example.")); err != nil || r.EDNS {
			t.Errorf("reply %+v, %v: want that of the first server", r, err)
		}
	}
}
