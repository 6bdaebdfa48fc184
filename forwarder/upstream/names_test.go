// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream/auto"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// resolver is a handler that answers A queries for the tests' server with an address, and
// everything else like the zone.
type resolver struct {
	zone  dnstest.Handler
	addr  atomic.Pointer[netip.Addr]
	asked atomic.Int32
}

func newResolver(t *testing.T, addr netip.Addr) *resolver {
	r := &resolver{zone: servertest.Zone(t)}
	r.addr.Store(&addr)
	return r
}

func (r *resolver) Answer(req *dnstest.Request) dnstest.Answer {
	var m dns.Msg
	if m.Unpack(req.Query) != nil || m.Question[0].Name != servertest.Name+"." {
		return r.zone.Answer(req)
	}
	r.asked.Add(1)
	m.Response = true
	if m.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: r.addr.Load().AsSlice()}}
	}
	msg, err := m.Pack()
	if err != nil {
		return dnstest.Answer{}
	}
	return dnstest.Answer{Msg: msg}
}

// named returns a server that is known by name, on the port of s.
func named(s *dnstest.Server) Server {
	return Server{Name: servertest.Name, Addr: netip.AddrPortFrom(netip.Addr{}, s.Addr().Port())}
}

// TestNamedServer: a server known by name is found through a bootstrap server, which gets no
// other query, and its certificate is checked for the name.
func TestNamedServer(t *testing.T) {
	r := newResolver(t, servertest.Loopback)
	boot := servertest.Serve(t, r, nil)
	s := servertest.Serve(t, servertest.Zone(t), nil)
	g := groupOf(t, Config{
		Servers:   []Server{named(s)},
		Bootstrap: []Server{{Addr: boot.Addr(), Name: servertest.Name}},
	})
	if st := g.Stats().Servers; len(st) != 1 || len(st[0].Addresses) != 0 {
		t.Errorf("stats %+v", st)
	}
	for range 3 {
		servertest.MustAsk(t, g, "www.example.")
	}
	if n := s.Stats().Queries(); n != 3 {
		t.Errorf("the server got %d queries, want 3", n)
	}
	if n := boot.Stats().Queries(); n != 2 || r.asked.Load() != 2 {
		t.Errorf("the bootstrap server got %d queries, want A and AAAA of the name", n)
	}
	st := g.Stats().Servers
	if len(st) != 1 || strings.Join(st[0].Addresses, " ") != "127.0.0.1" || !strings.HasPrefix(st[0].Server, "tls://dot.example:") {
		t.Errorf("stats %+v", st)
	}

	s.SetCertificate(servertest.Issue(t, dnstest.CertOptions{Names: []string{"other.example"}, IPs: []netip.Addr{servertest.Loopback}}))
	strict := groupOf(t, Config{Servers: []Server{named(s)}, Bootstrap: []Server{{Addr: boot.Addr(), Name: servertest.Name}}})
	if _, err := servertest.Ask(t, strict, "www.example."); err == nil || !strings.Contains(err.Error(), "not for dot.example") {
		t.Errorf("a certificate for another name: %v", err)
	}
}

// TestNamedServerThroughOthers: without bootstrap servers those of the group that have an
// address are asked. While the name cannot be resolved, queries are answered by the others.
func TestNamedServerThroughOthers(t *testing.T) {
	sw := dnstest.NewSwitch(dnstest.Rcode(2))
	other := servertest.Serve(t, sw, nil)
	s := servertest.Serve(t, servertest.Zone(t), nil)
	g := groupOf(t, Config{Servers: []Server{named(s), {Addr: other.Addr(), Name: servertest.Name}}})
	if _, err := servertest.Ask(t, g, "www.example."); err != nil {
		t.Fatal(err) // the SERVFAIL of the other server
	}
	// The other server's reply may be faster than the failure to find the address.
	servertest.Eventually(t, "the failure of the named server", func() bool {
		last := g.Stats().Servers[0].LastError
		return strings.Contains(last, "no address found for dot.example: ") && strings.Contains(last, "sent an error")
	})
	sw.Set(newResolver(t, servertest.Loopback))
	servertest.MustAsk(t, g, "www.example.")
	servertest.Eventually(t, "the named server is asked", func() bool {
		g.NetworkChanged() // forgets the failure
		servertest.MustAsk(t, g, "www.example.")
		return s.Stats().Queries() > 0
	})
}

// TestResolverRecovers: a bootstrap server that becomes healthy while another one is asked is asked
// as well, once.
func TestResolverRecovers(t *testing.T) {
	var g *Group
	first := servertest.Serve(t, newResolver(t, servertest.Loopback), nil)
	fails := dnstest.Rcode(dnstest.RcodeServFail)
	second := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		g.resolvers[0].backoffUntil.Store(0)
		return fails.Answer(r)
	}), nil)
	g = groupOf(t, Config{
		Servers:   []Server{{Name: servertest.Name, Addr: netip.AddrPortFrom(netip.Addr{}, 853)}},
		Bootstrap: []Server{{Addr: first.Addr(), Name: servertest.Name}, {Addr: second.Addr(), Name: servertest.Name}},
	})
	g.resolvers[0].backoffUntil.Store(1) // it is not healthy
	reply, err := g.askResolvers(t.Context(), servertest.Query(servertest.Name+".", dnstest.TypeA))
	if err != nil || wire.Rcode(reply) != wire.RcodeSuccess {
		t.Errorf("%x, %v", reply, err)
	}
	if n, m := first.Stats().Queries(), second.Stats().Queries(); n != 1 || m != 1 {
		t.Errorf("the servers got %d and %d queries, want one each", n, m)
	}
}

// TestNamedServerMoves: when a server is no longer reached where its name said, the name is
// resolved again, and no query fails meanwhile.
func TestNamedServerMoves(t *testing.T) {
	second := netip.MustParseAddr("127.0.0.2")
	r := newResolver(t, servertest.Loopback)
	boot := servertest.Serve(t, r, nil)
	s := servertest.Serve(t, servertest.Zone(t), nil)
	moved := servertest.ServeAt(t, netip.AddrPortFrom(second, s.Addr().Port()), servertest.Zone(t), nil)
	g := groupOf(t, Config{Servers: []Server{named(s)}, Bootstrap: []Server{{Addr: boot.Addr(), Name: servertest.Name}}})
	servertest.MustAsk(t, g, "www.example.")
	r.addr.Store(&second)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "the server is found at its new address", func() bool {
		_, _ = servertest.Ask(t, g, "www.example.")
		return moved.Stats().Queries() > 0
	})
	servertest.MustAsk(t, g, "www.example.")
	if got := g.Stats().Servers[0].Addresses; strings.Join(got, " ") != "127.0.0.2" {
		t.Errorf("addresses %v", got)
	}
}

// TestNamedServerDeadline: a bootstrap server that is silent delays a query until its
// deadline, and not longer.
func TestNamedServerDeadline(t *testing.T) {
	boot := servertest.Serve(t, dnstest.Silent(), nil)
	g := groupOf(t, Config{
		Servers:   []Server{{Name: servertest.Name, Addr: netip.AddrPortFrom(netip.Addr{}, 853)}},
		Bootstrap: []Server{{Addr: boot.Addr(), Name: servertest.Name}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := servertest.AskContext(ctx, t, g, "www.example.")
		done <- err
	}()
	servertest.Eventually(t, "the bootstrap server is asked", func() bool { return boot.Stats().Queries() >= 2 })
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

func TestNamesNeedBootstrap(t *testing.T) {
	s := Server{Name: "dns.example", Addr: netip.AddrPortFrom(netip.Addr{}, 853)}
	other := Server{Name: "dns.other", Addr: netip.AddrPortFrom(netip.Addr{}, 853)}
	for want, cfg := range map[string]Config{
		"dns.example cannot be resolved: add its address (tls://dns.example#ADDRESS), or a server that resolves it": {Servers: []Server{s, other}},
		"the bootstrap server tls://dns.other has no address: write it as ADDRESS#dns.other":                        {Servers: []Server{s}, Bootstrap: []Server{other}},
		"tls://dns.example is listed twice": {Servers: []Server{s, s}},
		"is not an address with a port":     {Servers: []Server{{Addr: s.Addr}}},
		`"127.0.0.1:0" is not an address`:   {Servers: []Server{s}, Bootstrap: []Server{{Addr: netip.AddrPortFrom(servertest.Loopback, 0)}}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestAuto: a group finds the protocol of a server by itself, here the only one that works.
func TestAuto(t *testing.T) {
	cfg := transport.Config{
		Server:  Server{Protocol: transport.Auto, Addr: netip.AddrPortFrom(servertest.Loopback, 0), Name: servertest.Name},
		RootCAs: servertest.CA().Pool,
	}
	for protocol, addr := range map[transport.Protocol]netip.AddrPort{
		transport.DoQ:  servertest.ServeQUIC(t, servertest.Zone(t), nil).Addr,
		transport.DoH3: servertest.ServeWeb(t, transport.DoH3, servertest.Zone(t), nil).Addr,
		transport.DoT:  servertest.Serve(t, servertest.Zone(t), nil).Addr(),
		transport.DoH:  servertest.ServeWeb(t, transport.DoH, servertest.Zone(t), nil).Addr,
	} {
		cl := servertest.NewClient(t, cfg, func(cfg transport.Config) (transport.Transport, error) {
			return auto.New(cfg, auto.Options{New: newTransport, Probe: transport.ProbeQuery, Port: func(p transport.Protocol) uint16 {
				if p == protocol {
					return addr.Port()
				}
				return 9 // nothing listens there
			}})
		})
		servertest.MustAsk(t, cl, "www.example.")
		if st := cl.T.Stats(); st.Using != protocol.String() || st.Protocol == "" || cl.DialFailures.Load() != 0 {
			t.Errorf("%s: stats %+v, %d failures reported", protocol, st, cl.DialFailures.Load())
		}
	}
}

// TestCertHashes: a server of a stamp with hashes needs one of these certificates in its chain,
// in addition to a trusted one, whatever the profile.
func TestCertHashes(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	ca := transport.CertHashOf(servertest.CA().Certificate())
	for _, tc := range []struct {
		hashes  []Pin
		profile Profile
		want    string
	}{
		{[]Pin{{1}, ca}, Strict, ""},
		{[]Pin{{1}}, Strict, "no certificate of its chain has a hash that the stamp contains"},
		{[]Pin{{1}}, Opportunistic, "no certificate of its chain"},
		{[]Pin{transport.PinOf(servertest.CA().Certificate())}, Strict, "no certificate of its chain"},
	} {
		g := groupOf(t, Config{Profile: tc.profile, Servers: []Server{{Addr: s.Addr(), Name: servertest.Name, CertHashes: tc.hashes}}})
		_, err := servertest.Ask(t, g, "www.example.")
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%x, %s: %v, want %q", tc.hashes, tc.profile, err, tc.want)
		}
	}
}
