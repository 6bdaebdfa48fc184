// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// portLog has the source ports of queries, in order of arrival.
type portLog struct {
	mu    sync.Mutex
	ports []uint16
}

func (l *portLog) add(from netip.AddrPort) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = append(l.ports, from.Port())
	return len(l.ports)
}

func (l *portLog) all() []uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]uint16(nil), l.ports...)
}

// runs returns how many successive queries came from each port.
func (l *portLog) runs() (runs []int) {
	var last uint16
	for _, p := range l.all() {
		if p != last {
			runs, last = append(runs, 0), p
		}
		runs[len(runs)-1]++
	}
	return runs
}

// reply returns the reply to a query.
func reply(query []byte) []byte {
	msg := append([]byte(nil), query...)
	msg[2] |= bitQR
	return msg
}

// pooling returns a client whose sockets do not expire before the test ends.
func pooling(tb testing.TB, cfg Config) *Client {
	c := New(cfg)
	c.life = time.Hour
	tb.Cleanup(c.Close)
	return c
}

// exchange sends a query over UDP, which has to succeed.
func exchange(tb testing.TB, c *Client, at netip.AddrPort, owner uint64) {
	tb.Helper()
	if _, err := c.Exchange(tb.Context(), at, owner, ask(tb, "a.", dns.TypeA), false, inAWhile()); err != nil {
		tb.Error(err)
	}
}

// TestReuse: a socket sends a random number of queries within its limits.
func TestReuse(t *testing.T) {
	var log portLog
	at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
		log.add(from)
		send(reply(query))
	})
	c := pooling(t, Config{})
	for range 2000 {
		exchange(t, c, at, 0)
	}
	runs := log.runs()
	lengths := map[int]bool{}
	for _, n := range runs[:len(runs)-1] { // the last has not ended
		lengths[n] = true
		if n < minUses || n > maxUses {
			t.Errorf("a socket sent %d queries: want %d to %d", n, minUses, maxUses)
		}
	}
	if len(lengths) < 5 {
		t.Errorf("successive sockets sent %v queries: not random", runs)
	}
}

// TestNotReused lists what ends a socket between two queries. The server calls answer for the
// first query; between runs after it.
func TestNotReused(t *testing.T) {
	type answer func(query []byte, send func([]byte))
	right := func(query []byte, send func([]byte)) { send(reply(query)) }
	nothing := func(*Client) {}
	cases := map[string]struct {
		answer  answer
		between func(c *Client)
		reused  bool
	}{
		"nothing":          {answer: right, between: nothing, reused: true},
		"duplicate reply":  {answer: func(q []byte, send func([]byte)) { send(reply(q)); send(reply(q)) }, between: nothing},
		"stray after it":   {answer: func(q []byte, send func([]byte)) { send(reply(q)); send([]byte("stray")) }, between: nothing},
		"empty datagram":   {answer: func(q []byte, send func([]byte)) { send(reply(q)); send(nil) }, between: nothing},
		"stray before it":  {answer: func(q []byte, send func([]byte)) { send(q); send(reply(q)) }, between: nothing},
		"changed network":  {answer: right, between: (*Client).NetworkChanged},
		"closed client":    {answer: right, between: (*Client).Close},
		"end of its life":  {answer: right, between: func(c *Client) { c.pool.idle[0].expires = time.Now() }},
		"last of its uses": {answer: right, between: nothing},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var log portLog
			answered := make(chan struct{}, 2)
			at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
				defer func() { answered <- struct{}{} }()
				if log.add(from) == 1 {
					tc.answer(query, send)
				} else {
					right(query, send)
				}
			})
			c := pooling(t, Config{})
			if name == "last of its uses" {
				c.uses = func() int { return 1 }
			}
			exchange(t, c, at, 0)
			<-answered // loopback delivers a datagram before the send returns
			tc.between(c)
			exchange(t, c, at, 0)
			if ports := log.all(); len(ports) != 2 || (ports[0] == ports[1]) != tc.reused {
				t.Errorf("queries came from %v: reused is not %v", ports, tc.reused)
			}
		})
	}
}

// TestRepeated: a query on a reused socket where something unexpected happens is repeated with
// another ID on a new one. A resent query ends its socket, because a second reply may follow.
func TestRepeated(t *testing.T) {
	for name, unexpected := range map[string]func(query []byte, send func([]byte)){
		"wrong ID": func(q []byte, send func([]byte)) {
			guess := reply(q)
			guess[0] ^= 1
			send(guess)
			send(reply(q)) // too late
		},
		"empty":     func(_ []byte, send func([]byte)) { send(nil) },
		"no answer": func([]byte, func([]byte)) {},
	} {
		t.Run(name, func(t *testing.T) {
			var log portLog
			var ids []uint16
			at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
				ids = append(ids, wire.ID(query))
				if n := log.add(from); n == 2 || n == 4 {
					unexpected(query, send)
				} else {
					send(reply(query))
				}
			})
			c := pooling(t, Config{})
			c.resend = nil
			exchange(t, c, at, 0)
			if name == "no answer" {
				c.resend = []time.Duration{300 * time.Millisecond}
			}
			for range 2 { // both are repeated
				exchange(t, c, at, 0)
			}
			p := log.all()
			if len(p) != 5 || p[0] != p[1] || p[1] == p[2] || p[2] != p[3] || p[3] == p[4] {
				t.Errorf("queries came from %v", p)
			}
			if len(ids) == 5 && ids[1] == ids[2] && ids[3] == ids[4] {
				t.Errorf("IDs %v: the repeated queries have the same", ids)
			}
		})
	}
}

// TestResentEndsSocket: a new socket that had to resend a query is not reused, because a second
// reply may follow.
func TestResentEndsSocket(t *testing.T) {
	var log portLog
	at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
		if log.add(from) != 1 {
			send(reply(query))
		}
	})
	c := pooling(t, Config{})
	c.resend = []time.Duration{200 * time.Millisecond}
	exchange(t, c, at, 0)
	c.resend = nil
	exchange(t, c, at, 0)
	if p := log.all(); len(p) != 3 || p[0] != p[1] || p[1] == p[2] {
		t.Errorf("queries came from %v", p)
	}
}

// TestFailedEndsSocket: sockets of queries that were cancelled, timed out or refused are not
// reused, whether new or used before.
func TestFailedEndsSocket(t *testing.T) {
	h := dnstest.NewSwitch(echo())
	s := serve(t, loopback, h)
	c := pooling(t, Config{})
	c.resend = nil
	check := func(what string, err, want error) {
		t.Helper()
		if n := len(c.pool.idle); !errors.Is(err, want) || n > 0 {
			t.Errorf("%s: %v, %d idle sockets", what, err, n)
		}
	}
	query := ask(t, "a.", dns.TypeA)
	for range 2 {
		h.Set(dnstest.Silent())
		ctx, cancel := context.WithCancel(t.Context())
		arrived := s.Stats().Queries() + 1
		go func() {
			for s.Stats().Queries() < arrived {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		_, err := c.Exchange(ctx, s.Addr(), 0, query, false, inAWhile())
		check("cancelled", err, context.Canceled)
		h.Set(echo())
		exchange(t, c, s.Addr(), 0)
		h.Set(dnstest.Silent())
		_, err = c.Exchange(t.Context(), s.Addr(), 0, query, false, soon())
		check("timed out", err, os.ErrDeadlineExceeded)
		h.Set(echo())
		exchange(t, c, s.Addr(), 0)
	}

	l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(pc.LocalAddr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		if n, from, err := pc.ReadFrom(buf); err == nil {
			_, _ = pc.WriteTo(reply(buf[:n]), from)
		}
	}()
	c.NetworkChanged()
	exchange(t, c, at, 0)
	<-done
	_, _ = l.Close(), pc.Close()
	_, err = c.Exchange(t.Context(), at, 0, query, false, inAWhile())
	check("refused", err, syscall.ECONNREFUSED)
}

// TestEndWhileInFlight: a socket is not kept if the network changed, or the client was closed,
// during its query. A closed client never keeps one.
func TestEndWhileInFlight(t *testing.T) {
	for name, end := range map[string]func(*Client){"changed network": (*Client).NetworkChanged, "closed client": (*Client).Close} {
		t.Run(name, func(t *testing.T) {
			c := pooling(t, Config{})
			var log portLog
			at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
				if log.add(from) == 1 {
					end(c)
				}
				send(reply(query))
			})
			for range 3 {
				exchange(t, c, at, 0)
			}
			if p := log.all(); p[0] == p[1] || (p[1] == p[2]) != (name == "changed network") {
				t.Errorf("queries came from %v", p)
			}
		})
	}
}

// TestUpdateUsesNewSocket: a query on a reused socket may be repeated, so an UPDATE is not sent
// on one.
func TestUpdateUsesNewSocket(t *testing.T) {
	var log portLog
	at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
		log.add(from)
		send(reply(query))
	})
	c := pooling(t, Config{})
	exchange(t, c, at, 0)
	update := pack(t, new(dns.Msg).SetUpdate("example."))
	if _, err := c.Exchange(t.Context(), at, 0, update, false, inAWhile()); err != nil {
		t.Fatal(err)
	}
	if p := log.all(); p[0] == p[1] {
		t.Error("the UPDATE was sent on a reused socket")
	}
}

// TestNotShared: neither different owners nor different nameservers share a socket, and a socket
// that Config.Open opened is not reused.
func TestNotShared(t *testing.T) {
	var log portLog
	answer := func(query []byte, send func([]byte), from netip.AddrPort) {
		log.add(from)
		send(reply(query))
	}
	servers := []netip.AddrPort{udpServer(t, answer), udpServer(t, answer)}
	c := pooling(t, Config{})
	c.uses = func() int { return maxUses }
	for range 10 {
		for owner := range uint64(3) {
			for _, at := range servers {
				exchange(t, c, at, owner)
			}
		}
	}
	kinds := map[uint16]int{}
	for i, p := range log.all() {
		if k, ok := kinds[p]; ok && k != i%6 {
			t.Fatalf("port %d is shared", p)
		}
		kinds[p] = i % 6
	}
	if len(kinds) != 6 {
		t.Errorf("%d sockets for 6 combinations", len(kinds))
	}

	opened := 0
	c = pooling(t, Config{Open: func(open func() error) error { opened++; return open() }})
	for range 10 {
		exchange(t, c, servers[0], 0)
	}
	if opened != 10 || len(c.pool.idle) > 0 {
		t.Errorf("%d sockets for 10 queries, %d are kept", opened, len(c.pool.idle))
	}
}
