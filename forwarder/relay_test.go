// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/forwarder/plain"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// nameserver starts a plain DNS server on loopback that runs until the test ends.
func nameserver(t *testing.T, h dnstest.Handler) netip.AddrPort {
	t.Helper()
	l, pc, err := dnstest.ListenPlain(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := dnstest.New(dnstest.Config{Handler: h, TCP: []net.Listener{l}, UDP: []net.PacketConn{pc}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// startRelay starts a forwarder that relays all queries to the nameserver at origin.
func startRelay(t *testing.T, origin netip.AddrPort) netip.AddrPort {
	t.Helper()
	return start(t, relayConfig(t, origin), "127.0.0.1:0")
}

// relayConfig returns the configuration of such a forwarder.
func relayConfig(t *testing.T, origin netip.AddrPort) Config {
	t.Helper()
	return Config{
		Upstream:   newZoneUpstream(t),
		Cache:      newCache(t),
		Nameserver: plain.New(plain.Config{}),
		Origins:    func(netip.Addr) (Origin, bool) { return Origin{Addr: origin, Workload: "test"}, true },
		Route:      func(*wire.Query, *Origin) Route { return Route{Action: Plain, Rule: 1} },
	}
}

// TestRelay: a query that a rule sends to its original destination arrives there unchanged,
// and so does the reply at the client.
func TestRelay(t *testing.T) {
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{A: []netip.Addr{netip.MustParseAddr("203.0.113.9")}})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan []byte, 1)
	origin := nameserver(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		seen <- append([]byte(nil), r.Query...)
		return zone.Answer(r)
	}))
	at := startRelay(t, origin)
	plainQuery := question("www.ExAmple.com", dns.TypeA)
	iterative := question("www.example.com", dns.TypeA)
	iterative.RecursionDesired = false
	cookie := withEDNS("www.example.com", dns.TypeA)
	cookie.IsEdns0().Option = append(cookie.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
	for what, m := range map[string]*dns.Msg{"a query": plainQuery, "RD=0": iterative, "a cookie": cookie} {
		for _, proto := range []string{"udp", "tcp"} {
			for range 2 { // nothing is cached
				sent, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				r := ask(t, proto, at, m)
				got := <-seen
				if string(got[2:]) != string(sent[2:]) {
					t.Errorf("%s over %s: the nameserver got %x, want %x", what, proto, got, sent)
				}
				if len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != "203.0.113.9" || r.Question[0].Name != m.Question[0].Name {
					t.Errorf("%s over %s: got %v", what, proto, r)
				}
			}
		}
	}
}

// TestRelayPorts: queries of different workloads never have the same source port, while those of
// one share some.
func TestRelayPorts(t *testing.T) {
	const workloads = 3
	ports := make(chan uint16, 1)
	origin := nameserver(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		ports <- r.Remote.Port()
		msg := append([]byte(nil), r.Query...)
		msg[2] |= 0x80
		return dnstest.Answer{Msg: msg}
	}))
	cfg := relayConfig(t, origin)
	var queries atomic.Uint64
	cfg.Origins = func(netip.Addr) (Origin, bool) {
		return Origin{Addr: origin, Workload: "test", Cgroup: queries.Load() % workloads}, true
	}
	at := start(t, cfg, "127.0.0.1:0")
	seen := make(map[uint16]uint64) // workload by port
	const n = 60
	for range n {
		ask(t, "udp", at, question("www.example.com", dns.TypeA))
		port, workload := <-ports, queries.Load()%workloads
		if other, ok := seen[port]; ok && other != workload {
			t.Fatalf("workloads %d and %d share port %d", other, workload, port)
		}
		seen[port] = workload
		queries.Add(1)
	}
	if len(seen) == n {
		t.Error("no port was used twice")
	}
}

// TestRelayFails: if the original destination does not answer, the client gets an error, and
// the query is not sent elsewhere.
func TestRelayFails(t *testing.T) {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	closed := l.LocalAddr().(*net.UDPAddr).AddrPort()
	l.Close()
	at := startRelay(t, closed)
	for _, proto := range []string{"udp", "tcp"} {
		r := ask(t, proto, at, withEDNS("www.example.com", dns.TypeA))
		if e := ede(r); r.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != dns.ExtendedErrorCodeNetworkError {
			t.Errorf("over %s: %v", proto, r)
		}
	}
}

// transferServer answers with a zone in that many messages and closes the connection. If
// whole is set, the last message has the SOA that ends the zone.
func transferServer(t *testing.T, messages int, whole bool) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	soa, err := dns.NewRR("example. 300 IN SOA ns.example. h.example. 1 2 3 4 5")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conn := &dns.Conn{Conn: c}
			q, err := conn.ReadMsg()
			if err != nil {
				c.Close()
				continue
			}
			for i := range messages {
				m := new(dns.Msg).SetReply(q)
				if i == 0 {
					m.Answer = append(m.Answer, soa)
				}
				for k := range 100 {
					rr, _ := dns.NewRR(fmt.Sprintf("n%d-%d.example. 300 IN A 192.0.2.1", i, k))
					m.Answer = append(m.Answer, rr)
				}
				if i == messages-1 && whole {
					m.Answer = append(m.Answer, soa)
				}
				if conn.WriteMsg(m) != nil {
					break
				}
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestTransfer: a zone transfer is relayed message by message. If it breaks off, the
// client's connection is closed too, so that the client does not consider it complete.
func TestTransfer(t *testing.T) {
	for _, whole := range []bool{true, false} {
		const messages = 200 // more than may wait unread
		at := startRelay(t, transferServer(t, messages, whole))
		tr := &dns.Transfer{DialTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
		m := new(dns.Msg)
		m.SetAxfr("example.")
		env, err := tr.In(m, at.String())
		if err != nil {
			t.Fatal(err)
		}
		records := 0
		var failed error
		for e := range env {
			records += len(e.RR)
			if e.Error != nil {
				failed = e.Error
			}
		}
		if want := messages*100 + 2; whole && (failed != nil || records != want) {
			t.Errorf("%d records, %v: want %d", records, failed, want)
		}
		if !whole && failed == nil {
			t.Errorf("%d records of a transfer that broke off passed for a zone", records)
		}
		var slow net.Error
		if !whole && errors.As(failed, &slow) && slow.Timeout() {
			t.Error("the client of a transfer that broke off was left waiting")
		}
	}
}

// endlessZone is a nameserver whose zone transfers end only when the client's connection does.
type endlessZone struct{ Nameserver }

func (endlessZone) Transfer(_ context.Context, _ netip.AddrPort, query []byte, _ time.Time, each func([]byte) error) error {
	msg := append(bytes.Clone(query), make([]byte, 32<<10)...)
	msg[2] |= 0x80
	for {
		if err := each(msg); err != nil {
			return err
		}
	}
}

// TestCloseDuringTransfer: Close does not wait for the client of a zone transfer, which has a long
// time to read and never does. Its connection is reset.
func TestCloseDuringTransfer(t *testing.T) {
	cfg := relayConfig(t, netip.MustParseAddrPort("192.0.2.1:53"))
	cfg.Nameserver, cfg.TCPIdle = endlessZone{}, time.Hour
	f, err := New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, s) }()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := (&dns.Conn{Conn: c}).WriteMsg(new(dns.Msg).SetAxfr("example.")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "more unread bytes than are queued", func() bool { return f.unread.Load() > maxUnread })
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close waits for the client")
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client reads up to %v, want a reset", err)
	}
}
