// SPDX-License-Identifier: Apache-2.0

package original

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestDDR: a designated server is used if its certificate is valid for the nameserver's address,
// whatever the profile, and only the query for it leaves in plain DNS.
func TestDDR(t *testing.T) {
	for _, profile := range []upstream.Profile{upstream.Strict, upstream.Opportunistic} {
		t.Run(profile.String(), func(t *testing.T) { testDDR(t, profile) })
	}
}

func testDDR(t *testing.T, profile upstream.Profile) {
	const nameserver = "127.0.7.51"
	good := serve(t, "127.0.7.52", 0, nameserver)
	bad := serve(t, "127.0.7.53", 0, "127.0.7.53")
	for name, tc := range map[string]struct {
		records []string
		want    string
	}{
		"good":          {[]string{svcb(1, good, "dot")}, good.Addr().String() + "#dot.example"},
		"bad":           {[]string{svcb(1, bad, "dot")}, ""},
		"bad, good":     {[]string{svcb(2, good, "dot"), svcb(1, bad, "dot")}, good.Addr().String() + "#dot.example"},
		"another":       {[]string{svcb(1, good, "xyz")}, ""},
		"unknown key":   {[]string{`_dns.resolver.arpa. 300 SVCB 1 dot.example. mandatory=key65333 alpn="dot" key65333=x`}, ""},
		"does not":      {nil, ""},
		"several ALPNs": {[]string{svcb(1, good, "h2,dot")}, good.Addr().String() + "#dot.example"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			l := newLab(t, func(cfg *Config) {
				cfg.Discovery, cfg.port, cfg.Group.Profile = WithDDR, 1, profile
				cfg.Ask = func(_ context.Context, to netip.AddrPort, query []byte, _ time.Time) ([]byte, error) {
					asked.Add(1)
					var q dns.Msg
					if err := q.Unpack(query); err != nil || q.Question[0].String() != ";_dns.resolver.arpa.\tIN\t SVCB" || to.String() != nameserver+":53" || !q.RecursionDesired {
						t.Errorf("to %v: %v, %v", to, q.String(), err)
					}
					return reply(t, &q, tc.records)
				}
			})
			for range 2 {
				got, err := l.ask(nameserver, "www.example.")
				if got != tc.want || (tc.want == "") != errors.Is(err, errFallback) {
					t.Errorf("answered by %q, %v", got, err)
				}
			}
			if asked.Load() != 1 {
				t.Errorf("%d plain queries", asked.Load())
			}
		})
	}
}

// svcb returns the record that designates a server.
func svcb(priority int, s *dnstest.Server, alpn string) string {
	return fmt.Sprintf(`_dns.resolver.arpa. 300 SVCB %d dot.example. alpn=%q port=%d ipv4hint=%s`, priority, alpn, s.Addr().Port(), s.Addr().Addr())
}

// reply returns the reply of a nameserver to the query for the servers that it designates.
func reply(t *testing.T, q *dns.Msg, records []string) ([]byte, error) {
	m := new(dns.Msg)
	m.SetReply(q)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Error(err)
			continue
		}
		m.Answer = append(m.Answer, rr)
	}
	return m.Pack()
}

// FuzzDesignated: no reply of a nameserver makes parsing fail, or gives a server that a group
// does not accept.
func FuzzDesignated(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("_dns.resolver.arpa.", dns.TypeSVCB)
	m.Response = true
	for _, text := range []string{`_dns.resolver.arpa. 300 SVCB 1 dot.example. alpn="dot,h2" port=8853 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1`, `_dns.resolver.arpa. 300 SVCB 2 . alpn="dot"`} {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	seed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	nameserver := netip.MustParseAddr("192.0.2.53")
	f.Fuzz(func(t *testing.T, msg []byte) {
		servers, ttl, err := parseDesignated(nameserver, msg)
		if err != nil {
			return
		}
		for _, s := range servers {
			g, err := upstream.New(upstream.Config{Servers: []upstream.Server{s.server}})
			if err != nil || s.server.CertAddr != nameserver || ttl < minDesignation || ttl > maxDesignation {
				t.Fatalf("%v: %v for %v", s.server, err, ttl)
			}
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestDesignatedProtocols: each encrypted protocol, with its default port, and the path of DNS over
// HTTPS, without which such a server cannot be used.
func TestDesignatedProtocols(t *testing.T) {
	nameserver := netip.MustParseAddr("192.0.2.53")
	for params, want := range map[string]transport.Server{
		`alpn="dot"`:                               {Protocol: transport.DoT, Addr: netip.MustParseAddrPort("192.0.2.53:853")},
		`alpn="doq"`:                               {Protocol: transport.DoQ, Addr: netip.MustParseAddrPort("192.0.2.53:853")},
		`alpn="h2" dohpath="/dns-query{?dns}"`:     {Protocol: transport.DoH, Addr: netip.MustParseAddrPort("192.0.2.53:443"), Path: "/dns-query"},
		`alpn="h3" port=8443 dohpath="/q{?dns}"`:   {Protocol: transport.DoH3, Addr: netip.MustParseAddrPort("192.0.2.53:8443"), Path: "/q"},
		`alpn="h2"`:                                {},
		`alpn="h2" dohpath="/dns-query"`:           {},
		`alpn="h2" dohpath="dns-query{?dns}"`:      {},
		`alpn="h2" mandatory=dohpath dohpath="/a"`: {},
	} {
		rr, err := dns.NewRR("_dns.resolver.arpa. 300 SVCB 1 dot.example. " + params)
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg).SetQuestion("_dns.resolver.arpa.", dns.TypeSVCB)
		m.Response, m.Answer = true, []dns.RR{rr}
		msg, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		servers, _, err := parseDesignated(nameserver, msg)
		if !want.Addr.IsValid() {
			if err == nil {
				t.Errorf("%s: %v: want none", params, servers)
			}
			continue
		}
		want.Name, want.CertAddr = "dot.example", nameserver
		if err != nil || len(servers) != 1 || !reflect.DeepEqual(servers[0].server, want) {
			t.Errorf("%s: %+v, %v\nwant %+v", params, servers, err, want)
		}
	}
}
