// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// start serves h on loopback over TLS, TCP and UDP until the test ends.
func start(t *testing.T, h Handler) (s *Server, plain string, client *tls.Config) {
	t.Helper()
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(CertOptions{Names: []string{"dns.example"}, IPs: []netip.Addr{loopback.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	tl, pc, err := ListenPlain(loopback)
	if err != nil {
		t.Fatal(err)
	}
	s, err = New(Config{
		Handler: h, Certificate: cert, LogQueries: 100,
		TLS: []net.Listener{l}, TCP: []net.Listener{tl}, UDP: []net.PacketConn{pc},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if open := s.Stats().Open; open != 0 {
			t.Errorf("%d connections are open after Serve returned", open)
		}
	})
	return s, tl.Addr().String(), &tls.Config{RootCAs: ca.Pool(), ServerName: "dns.example", NextProtos: []string{"dot"}}
}

func TestServerTransports(t *testing.T) {
	s, plain, cfg := start(t, testZone(t, ZoneConfig{}))
	for network, addr := range map[string]string{"udp": plain, "tcp": plain, "tcp-tls": s.Addr().String()} {
		q := new(dns.Msg)
		q.SetQuestion("www.example.", dns.TypeA)
		c := &dns.Client{Net: network, TLSConfig: cfg, Timeout: 5 * time.Second}
		r, _, err := c.Exchange(q, addr)
		if err != nil || len(r.Answer) != 1 {
			t.Fatalf("%s: %v, %v", network, r, err)
		}
	}
	st := s.Stats()
	if st.UDP != 1 || st.TCP != 1 || st.TLS != 1 || st.Conns != 2 || st.Handshakes != 1 || st.Reads < 2 {
		t.Errorf("stats %+v", st)
	}
	for _, e := range s.Log() {
		if e.Name != "www.example." || e.Type != dns.TypeA {
			t.Errorf("log %+v", e)
		}
	}
}

func TestServerOutOfOrder(t *testing.T) {
	s, _, cfg := start(t, testZone(t, ZoneConfig{}))
	nc, err := tls.Dial("tcp", s.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if p := nc.ConnectionState().NegotiatedProtocol; p != "dot" {
		t.Errorf("ALPN %q", p)
	}
	c := &dns.Conn{Conn: nc}
	var slow, fast dns.Msg
	slow.SetQuestion("delay-200.example.", dns.TypeA)
	fast.SetQuestion("www.example.", dns.TypeA)
	for _, q := range []*dns.Msg{&slow, &fast} {
		if err := c.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []uint16{fast.Id, slow.Id} {
		if r, err := c.ReadMsg(); err != nil || r.Id != want {
			t.Fatalf("got %v, %v; want ID %d", r, err, want)
		}
	}
}

func TestServerClosesConns(t *testing.T) {
	z := testZone(t, ZoneConfig{})
	sw := NewSwitch(z)
	s, _, cfg := start(t, sw)
	for name, tc := range map[string]struct {
		h    Handler
		want int // replies before the connection ends
	}{
		"close after 2": {CloseAfter(2, z), 2},
		"reset":         {ResetAll(), 0},
		"half a frame":  {TruncatedFrame(z), 0},
	} {
		sw.Set(tc.h)
		nc, err := tls.Dial("tcp", s.Addr().String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		c, got := &dns.Conn{Conn: nc}, 0
		for ; got < 5; got++ {
			q := new(dns.Msg)
			q.SetQuestion("www.example.", dns.TypeA)
			if c.WriteMsg(q) != nil {
				break
			}
			if _, err := c.ReadMsg(); err != nil {
				break
			}
		}
		if got != tc.want {
			t.Errorf("%s: %d replies, want %d", name, got, tc.want)
		}
		nc.Close()
	}
}

func TestServerResumes(t *testing.T) {
	s, _, cfg := start(t, testZone(t, ZoneConfig{}))
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		c := &dns.Client{Net: "tcp-tls", TLSConfig: cfg, Timeout: 5 * time.Second}
		q := new(dns.Msg)
		q.SetQuestion("www.example.", dns.TypeA)
		if _, _, err := c.Exchange(q, s.Addr().String()); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Resumed != 1 {
		t.Errorf("%d of %d handshakes resumed, want 1 of 2", st.Resumed, st.Handshakes)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no handler": {},
		"no sockets": {Handler: Silent()},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
