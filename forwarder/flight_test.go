// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// exchangeFunc is an upstream whose behaviour a test chooses. Its ctx has the deadline.
type exchangeFunc func(ctx context.Context, query []byte) ([]byte, error)

func (f exchangeFunc) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return f(ctx, query)
}

// TestCoalescing: identical queries of many clients share one upstream query, and each
// client gets its own ID and spelling back.
func TestCoalescing(t *testing.T) {
	up := newZoneUpstream(t)
	at := start(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			name := "delay-300.Example."
			if i%2 == 0 {
				name = "DELAY-300.eXAMPLE."
			}
			m := question(name, dns.TypeA)
			r, err := dns.Exchange(m, at.String())
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			if r.Id != m.Id || r.Question[0].Name != name || len(r.Answer) != 1 {
				t.Errorf("client %d sent %d %s and got %d %v", i, m.Id, name, r.Id, r.Question)
			}
		})
	}
	wg.Wait()
	if n := up.asked.Load(); n != 1 {
		t.Errorf("the upstream got %d queries for one question", n)
	}
	// With DO the query is a different one: its answer has signatures.
	m := question("delay-300.example", dns.TypeA)
	m.SetEdns0(1232, true)
	if r := ask(t, "udp", at, m); len(r.Answer) != 2 {
		t.Errorf("with DO: %v: want the record and its signature", r.Answer)
	}
}

// TestFailure: whatever an upstream does, a client gets SERVFAIL with the reason in
// time.
func TestFailure(t *testing.T) {
	good := newZoneUpstream(t)
	for _, tc := range []struct {
		what string
		up   exchangeFunc
		code uint16
		text string
	}{
		{"silence", func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }, wire.EDENoReachableAuthority, "in time"},
		{"an error", func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the cable is cut") }, wire.EDEOther, "cable"},
		{"its own reason", func(context.Context, []byte) ([]byte, error) { return nil, fmt.Errorf("ask: %w", explained{}) }, wire.EDENetworkError, "why"},
		{"garbage", func(context.Context, []byte) ([]byte, error) { return []byte("garbage, and then some more"), nil }, wire.EDENetworkError, "parse reply"},
		{"another question", func(ctx context.Context, q []byte) ([]byte, error) {
			other, err := question("other.example", dns.TypeA).Pack()
			if err != nil {
				return nil, err
			}
			return good.answer(ctx, other)
		}, wire.EDENetworkError, "another"},
		{"a refusal of our EDNS", func(_ context.Context, q []byte) ([]byte, error) {
			m := new(dns.Msg)
			if err := m.Unpack(q); err != nil {
				return nil, err
			}
			m.Extra = nil
			m.SetRcode(m, dns.RcodeBadVers)
			m.SetEdns0(1232, false)
			return m.Pack()
		}, wire.EDENetworkError, "BADVERS"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			at := start(t, Config{Upstream: tc.up, Cache: newCache(t), Timeout: 300 * time.Millisecond}, "127.0.0.1:0")
			for _, proto := range []string{"udp", "tcp"} {
				m := question("a.example", dns.TypeA)
				m.SetEdns0(1232, false)
				r := ask(t, proto, at, m)
				e := ede(r)
				if r.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != tc.code || !strings.Contains(e.ExtraText, tc.text) {
					t.Errorf("%s: %s with %v: want SERVFAIL with code %d and %q", proto, dns.RcodeToString[r.Rcode], e, tc.code, tc.text)
				}
			}
		})
	}
}

type explained struct{}

func (explained) Error() string { return "failed" }
func (explained) EDE() wire.EDE { return wire.EDE{Code: wire.EDENetworkError, Text: "this is why"} }

// delayedUpstream counts queries and answers them once release is closed.
func delayedUpstream(t *testing.T, release <-chan struct{}, asked *atomic.Int64) Exchanger {
	good := newZoneUpstream(t)
	return exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		asked.Add(1)
		select {
		case <-release:
			return good.answer(ctx, q)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// TestOverload: queries over the limits are refused immediately, and capacity that was
// released is used again.
func TestOverload(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Int64
	up := delayedUpstream(t, release, &asked)
	at := start(t, Config{Upstream: up, MaxMisses: 2, MaxWaiters: 3}, "127.0.0.1:0")
	replies := make(chan *dns.Msg, 4)
	askFor := func(name string) {
		m := question(name, dns.TypeA)
		m.SetEdns0(1232, false)
		r, _ := dns.Exchange(m, at.String())
		replies <- r
	}
	go askFor("one.example")
	go askFor("two.example")
	waitFor(t, "two flights", func() bool { return asked.Load() == 2 })
	go askFor("three.example")
	r := <-replies
	if e := ede(r); r == nil || r.Rcode != dns.RcodeServerFailure || e == nil || !strings.Contains(e.ExtraText, "overloaded") {
		t.Fatalf("a query over the limit got %v", r)
	}
	close(release)
	for range 2 {
		if r := <-replies; r == nil || len(r.Answer) != 1 {
			t.Errorf("a query within the limits got %v", r)
		}
	}
	if r := ask(t, "udp", at, question("four.example", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("afterwards: %v", r)
	}
}
