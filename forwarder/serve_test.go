// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sotto/forwarder/wire"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// TestServe: every reply comes from the address that the query was sent to. A wildcard
// socket would choose another by default.
func TestServe(t *testing.T) {
	up := newZoneUpstream(t)
	any6 := start(t, Config{Upstream: up, Cache: newCache(t)}, "[::]:0")
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.77.1.9", "::1"} {
		for _, proto := range []string{"udp", "tcp"} {
			t.Run(host+"/"+proto, func(t *testing.T) {
				// The client's socket is connected, and receives from one address only.
				r := ask(t, proto, netip.AddrPortFrom(netip.MustParseAddr(host), any6.Port()), question("www.example.com", dns.TypeA))
				if len(r.Answer) != 1 || !r.RecursionAvailable || r.Authoritative {
					t.Errorf("got %v", r)
				}
			})
		}
	}
	if n := up.asked.Load(); n != 1 {
		t.Errorf("the upstream got %d queries, want 1: the others are cached", n)
	}
}

// TestLimits: a long answer is truncated to the client's size over UDP and complete over
// TCP.
func TestLimits(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	for _, tc := range []struct {
		name  string
		size  uint16 // EDNS, 0: none
		whole bool
	}{
		{"txt-300.example", 0, true}, {"txt-600.example", 0, false},
		{"txt-600.example", 1232, true}, {"txt-1500.example", 4096, false}, // never more than 1232
		{"txt-20000.example", 1232, false}, {"txt-65000.example", 0, false},
	} {
		m := question(tc.name, dns.TypeTXT)
		if tc.size > 0 {
			m.SetEdns0(tc.size, false)
		}
		r := ask(t, "udp", at, m)
		if r.Truncated == tc.whole || (len(r.Answer) == 1) != tc.whole {
			t.Errorf("%s with size %d over UDP: TC %v and %d records", tc.name, tc.size, r.Truncated, len(r.Answer))
		}
		if r = ask(t, "tcp", at, m); r.Truncated || len(r.Answer) != 1 {
			t.Errorf("%s over TCP: TC %v and %d records", tc.name, r.Truncated, len(r.Answer))
		}
	}
}

// TestPolicy tests queries that are answered without an upstream.
func TestPolicy(t *testing.T) {
	up := newZoneUpstream(t)
	at := start(t, Config{Upstream: up}, "127.0.0.1:0")
	edit := func(name string, qtype uint16, f func(*dns.Msg)) *dns.Msg {
		m := question(name, qtype)
		m.SetEdns0(1232, false)
		f(m)
		return m
	}
	for _, tc := range []struct {
		what  string
		m     *dns.Msg
		rcode int
		ede   int // -1: none
	}{
		{"RD=0", edit("a.example", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }), dns.RcodeRefused, 20},
		{"AXFR", edit("example", dns.TypeAXFR, func(*dns.Msg) {}), dns.RcodeRefused, 21},
		{"IXFR", edit("example", dns.TypeIXFR, func(*dns.Msg) {}), dns.RcodeRefused, 21},
		{"NOTIFY", edit("example", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeRefused, 21},
		{"UPDATE", edit("example", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeRefused, 21},
		{"STATUS", edit("example", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), dns.RcodeNotImplemented, -1},
		{"EDNS 1", edit("a.example", dns.TypeA, func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers, -1},
		{"two questions", edit("a.example", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError, -1},
		{"discovery", edit("_dns.resolver.arpa", dns.TypeSVCB, func(*dns.Msg) {}), dns.RcodeSuccess, -1},
		{"discovery in capitals", edit("_DNS.Resolver.ARPA", dns.TypeSVCB, func(*dns.Msg) {}), dns.RcodeSuccess, -1},
	} {
		t.Run(tc.what, func(t *testing.T) {
			r := ask(t, "tcp", at, tc.m)
			if r.Rcode != tc.rcode || len(r.Answer) != 0 {
				t.Errorf("rcode %s and %d answers: want %s and none", dns.RcodeToString[r.Rcode], len(r.Answer), dns.RcodeToString[tc.rcode])
			}
			if e := ede(r); (e == nil) != (tc.ede < 0) || e != nil && int(e.InfoCode) != tc.ede {
				t.Errorf("EDE %v: want code %d", e, tc.ede)
			}
		})
	}
	if n := up.asked.Load(); n != 0 {
		t.Errorf("the upstream got %d queries", n)
	}
	if r := ask(t, "udp", at, question("notresolver.arpa", dns.TypeA)); len(r.Answer) == 0 {
		t.Error("notresolver.arpa is not below resolver.arpa, and was not forwarded")
	}
}

// TestSilence: over UDP a message that is not a query gets no reply, and the next query
// does.
func TestSilence(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0")
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good, err := question("a.example", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := append([]byte(nil), good...)
	reply[2] |= 0x80 // QR
	for _, b := range [][]byte{{}, {0}, good[:11], reply, good} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.Read(buf)
	if err != nil || n < 12 || buf[3]&0x0F != 0 {
		t.Fatalf("the first reply is % x, %v: want that to the one good query", buf[:n], err)
	}
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err = c.Read(buf); err == nil {
		t.Errorf("another reply: % x", buf[:n])
	}
}

// TestOrigins: the origin of a query is known from the local address that it arrived at. A
// query to an unknown address is not answered.
func TestOrigins(t *testing.T) {
	known := map[netip.Addr]Origin{
		netip.MustParseAddr("127.9.0.7"): {Addr: netip.MustParseAddrPort("8.8.8.8:53"), Workload: "/a"},
		netip.MustParseAddr("127.9.0.8"): {Addr: netip.MustParseAddrPort("9.9.9.9:53"), Workload: "/b"},
	}
	var mu sync.Mutex
	got := map[Origin]int{}
	at := start(t, Config{
		Upstream: newZoneUpstream(t), Cache: newCache(t),
		Origins: func(a netip.Addr) (Origin, bool) { o, ok := known[a]; return o, ok },
		Observe: func(ev Event) {
			mu.Lock()
			defer mu.Unlock()
			got[ev.Origin]++
			if wire.Name(ev.Name) != "a.example." || ev.Type != dns.TypeA || !ev.Client.IsValid() {
				t.Errorf("event %+v", ev)
			}
		},
	}, "0.0.0.0:0")
	for host := range known {
		for _, proto := range []string{"udp", "tcp"} {
			ask(t, proto, netip.AddrPortFrom(host, at.Port()), question("a.example", dns.TypeA))
		}
	}
	c := dns.Client{Timeout: 200 * time.Millisecond}
	if r, _, err := c.Exchange(question("a.example", dns.TypeA), netip.AddrPortFrom(netip.MustParseAddr("127.9.0.9"), at.Port()).String()); err == nil {
		t.Errorf("an unknown address answered: %v", r)
	}
	waitFor(t, "four events", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 2 })
	mu.Lock()
	defer mu.Unlock()
	for _, o := range known {
		if got[o] != 2 {
			t.Errorf("%v was observed %d times: want 2", o, got[o])
		}
	}
}

// TestListen: Listen opens the sockets it promises, and leaves none open on an error.
func TestListen(t *testing.T) {
	s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(s.udp) != 3 || len(s.tcp) != 3 {
		t.Errorf("%d UDP and %d TCP sockets: want 3 and 3", len(s.udp), len(s.tcp))
	}
	if _, err := Listen(t.Context(), s.Addr(), 1); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("Listen shares a port with others: %v", err)
	}
	shared, err := ListenShared(t.Context(), s.Addr(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0") // without SO_REUSEPORT
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(context.Background(), l.Addr().(*net.TCPAddr).AddrPort(), 1); err == nil {
		t.Error("Listen succeeded for a port in use")
	}
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		t.Errorf("Listen failed and left its UDP socket open: %v", err)
	} else {
		u.Close()
	}
	for _, n := range []int{0, -1} {
		if _, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), n); err == nil {
			t.Errorf("Listen with %d sockets succeeded", n)
		}
	}
}

// TestStop: a forwarder that is stopped sends its pending replies and leaves no goroutine.
func TestStop(t *testing.T) {
	before := runtime.NumGoroutine()
	f, err := New(context.Background(), Config{Upstream: newZoneUpstream(t)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, s) }()
	replies := make(chan *dns.Msg, 2)
	for _, proto := range []string{"udp", "tcp"} {
		go func() {
			c := dns.Client{Net: proto, Timeout: 5 * time.Second}
			r, _, _ := c.Exchange(question("delay-300.example", dns.TypeA), s.Addr().String())
			replies <- r
		}()
	}
	waitFor(t, "two waiting clients", func() bool { return f.flights.waiting.InUse() == 2 })
	cancel()
	for range 2 {
		if r := <-replies; r == nil || len(r.Answer) == 0 {
			t.Errorf("a pending reply is %v", r)
		}
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	waitFor(t, "goroutines to exit", func() bool { return runtime.NumGoroutine() <= before })
}

// waitFor waits until the condition is true, and fails the test after ten seconds.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("timeout waiting for %s", what)
}

// TestSigned: a signed query is answered immediately with the TSIG error BADKEY: Sotto does
// not have the key.
func TestSigned(t *testing.T) {
	up := newZoneUpstream(t)
	at := start(t, Config{Upstream: up}, "127.0.0.1:0")
	m := question("a.example", dns.TypeA)
	m.SetEdns0(1232, false)
	m.SetTsig("key.", dns.HmacSHA256, 300, 1)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	r := new(dns.Msg)
	if err := r.Unpack(buf[:n]); err != nil {
		t.Fatal(err)
	}
	sig, e := r.IsTsig(), ede(r)
	if r.Rcode != dns.RcodeNotAuth || sig == nil || sig.Error != dns.RcodeBadKey || e == nil || e.InfoCode != dns.ExtendedErrorCodeNotSupported {
		t.Errorf("got %v", r)
	}
	if n := up.asked.Load(); n != 0 {
		t.Errorf("the upstream got %d queries", n)
	}
}

// TestListenAnyPort: with port 0, Listen chooses a port that no other socket shares. The kernel
// would choose one of these for one in seven sockets with SO_REUSEPORT.
func TestListenAnyPort(t *testing.T) {
	const others = 4000
	host := netip.MustParseAddr("127.0.53.53")
	taken := map[uint16]bool{}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return sharePort(c) }}
	for range others {
		u, err := lc.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(host, 0).String())
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		taken[u.LocalAddr().(*net.UDPAddr).AddrPort().Port()] = true
	}
	for range 50 {
		s, err := Listen(t.Context(), netip.AddrPortFrom(host, 0), 2)
		if err != nil {
			t.Fatal(err)
		}
		port := s.Addr().Port()
		s.Close()
		if taken[port] {
			t.Fatalf("port %d is shared with another socket", port)
		}
	}
}
