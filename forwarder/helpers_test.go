// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/cache"
	"sotto/internal/dnstest"
)

// zoneUpstream answers from the embedded zone without a network. Package upstream has
// tests with one.
type zoneUpstream struct {
	zone  *dnstest.Zone
	asked atomic.Int64
}

func newZoneUpstream(tb testing.TB) *zoneUpstream {
	tb.Helper()
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return &zoneUpstream{zone: zone}
}

func (z *zoneUpstream) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	return exchangeFunc(z.answer).Exchange(ctx, query, until)
}

func (z *zoneUpstream) answer(ctx context.Context, query []byte) ([]byte, error) {
	z.asked.Add(1)
	a := z.zone.Answer(&dnstest.Request{Query: query, Transport: dnstest.TLS})
	if a.Msg == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	t := time.NewTimer(a.Delay)
	defer t.Stop()
	select {
	case <-t.C:
		return a.Msg, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newCache(tb testing.TB) *cache.Cache {
	tb.Helper()
	c, err := cache.New(cache.Config{MaxBytes: 8 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// start serves cfg on a loopback address until the test ends, and returns the address.
func start(tb testing.TB, cfg Config, at string) netip.AddrPort {
	tb.Helper()
	_, addr := startForwarder(tb, cfg, at)
	return addr
}

// startForwarder is like start and also returns the forwarder.
func startForwarder(tb testing.TB, cfg Config, at string) (*Forwarder, netip.AddrPort) {
	tb.Helper()
	f, err := New(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := Listen(context.Background(), netip.MustParseAddrPort(at), 2)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, s) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
		if err := f.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return f, netip.AddrPortFrom(netip.MustParseAddrPort(at).Addr(), s.Addr().Port())
}

// question returns a recursive query for name.
func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	return m
}

// ask sends m to the server over proto and fails the test if no reply comes.
func ask(tb testing.TB, proto string, to netip.AddrPort, m *dns.Msg) *dns.Msg {
	tb.Helper()
	c := dns.Client{Net: proto, Timeout: 5 * time.Second, UDPSize: dns.MaxMsgSize}
	r, _, err := c.Exchange(m, to.String())
	if err != nil {
		tb.Fatalf("ask %s over %s for %v: %v", to, proto, m.Question, err)
	}
	return r
}

// ede returns the first Extended DNS Error of r, or nil.
func ede(r *dns.Msg) *dns.EDNS0_EDE {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e
			}
		}
	}
	return nil
}
