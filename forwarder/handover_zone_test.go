// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestHandoverOfTransfer: a zone transfer that takes longer than any query is completed
// before its connection is handed over.
func TestHandoverOfTransfer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 8 s")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const messages = 16 // one every half second
	go slowZone(l, messages)
	cfg := relayConfig(t, netip.MustParseAddrPort(l.Addr().String()))
	s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	following := duplicate(t, s)
	at := s.Addr()
	g, next := newGeneration(t, cfg, s), newGeneration(t, cfg, following)
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	conn := &dns.Conn{Conn: c}
	read := func(id uint16) {
		t.Helper()
		if r, err := conn.ReadMsg(); err != nil || r.Id != id {
			t.Fatalf("got %v, %v", r, err)
		}
	}
	m := new(dns.Msg).SetAxfr("example.")
	if err := conn.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	read(m.Id)
	// The kernel chooses which of the two accepts: hand over from that one.
	if g.f.conns.Len() == 0 {
		g, next = next, g
	}
	done := make(chan struct{})
	go func() { defer close(done); g.takeOver(next) }()
	for range messages - 1 {
		read(m.Id)
	}
	// The next query is read by the successor.
	if err := conn.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	read(m.Id)
	<-done
	if n := next.count.Load(); n != 1 {
		t.Errorf("%d connections were handed over", n)
	}
	c.Close()
	next.stop(nil)
	next.finish()
}

// TestServeConnStops: a connection that was handed over is waited for no longer than
// others.
func TestServeConnStops(t *testing.T) {
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	go slowZone(origin, 120) // for a minute
	f, err := New(context.Background(), relayConfig(t, netip.MustParseAddrPort(origin.Addr().String())))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.ServeConn(ctx, accepted.(*net.TCPConn), nil) }()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	conn := &dns.Conn{Conn: c}
	m := new(dns.Msg).SetAxfr("example.")
	if err := conn.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	if r, err := conn.ReadMsg(); err != nil || r.Id != m.Id {
		t.Fatalf("got %v, %v", r, err)
	}
	stop()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("ServeConn waits for the whole zone")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

// slowZone answers every query on l with a zone of that many messages.
func slowZone(l net.Listener, messages int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			conn := &dns.Conn{Conn: c}
			q, err := conn.ReadMsg()
			for i := 0; i < messages && err == nil; i++ {
				r := new(dns.Msg).SetReply(q)
				rr := "n.example. 300 IN A 192.0.2.1"
				if i == 0 || i == messages-1 {
					rr = "example. 300 IN SOA ns.example. h.example. 1 2 3 4 5"
				}
				record, _ := dns.NewRR(rr) // always valid
				r.Answer = append(r.Answer, record)
				if err = conn.WriteMsg(r); i < messages-1 {
					time.Sleep(500 * time.Millisecond)
				}
			}
		}()
	}
}
