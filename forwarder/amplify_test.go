// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/forwarder/wire"
	"sotto/internal/ednstest"
)

// maxFactor is how many times longer than its query a reply over UDP may be: 1,232
// bytes to the shortest query that allows so many, which has 28.
const maxFactor = 44

// anyUpstream answers ANY with everything that it can think of, and other types as
// the zone does.
func anyUpstream(t *testing.T) Exchanger {
	good := newZoneUpstream(t)
	return exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		m := new(dns.Msg)
		if err := m.Unpack(q); err != nil || m.Question[0].Qtype != dns.TypeANY {
			return good.answer(ctx, q)
		}
		m.Response, m.Extra = true, nil
		for i := range 40 {
			rr, err := dns.NewRR(fmt.Sprintf("%s 300 IN TXT %q", m.Question[0].Name, strings.Repeat("x", 60+i)))
			if err != nil {
				return nil, err
			}
			m.Answer = append(m.Answer, rr)
		}
		return m.Pack()
	})
}

// TestAmplification: however much there is to say, over UDP it is said in no more than
// the client takes, and never in more than 1,232 bytes; what does not fit is header,
// question and OPT, so that a forged query makes no more of itself.
func TestAmplification(t *testing.T) {
	at := start(t, Config{Upstream: anyUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	for _, q := range []struct {
		name string
		typ  uint16
	}{{"any.example", dns.TypeANY}, {"txt-65000.example", dns.TypeTXT}, {"txt-1000.example", dns.TypeTXT}, {"a-80.example", dns.TypeA}, {".", dns.TypeANY}, {"www.example", dns.TypeDNSKEY}} {
		for _, size := range []int{-1, 0, 511, 512, 600, 1232, 1233, 4096, 65535} {
			var opt *ednstest.OPT
			limit, optLen := wire.MinUDPSize, 0
			if size >= 0 {
				opt, optLen = &ednstest.OPT{Size: uint16(size), Flags: 0x8000}, 11
				limit = min(max(size, wire.MinUDPSize), wire.UDPSize)
			}
			query := ednstest.Query(q.name, q.typ, 0x0100, opt)
			for range 2 { // the second is from the cache
				reply := askRaw(t, "udp", at, query)
				truncated := reply[2]&2 != 0
				switch {
				case len(reply) > limit, len(reply) > maxFactor*len(query):
					t.Errorf("%s %d, size %d: %d bytes to a query of %d", q.name, q.typ, size, len(reply), len(query))
				case truncated && len(reply) != len(query)-len(query[questionEnd(query):])+optLen:
					t.Errorf("%s %d, size %d: truncated, and %d bytes", q.name, q.typ, size, len(reply))
				case !truncated && q.name == "txt-65000.example":
					t.Errorf("%s, size %d: not truncated", q.name, size)
				}
			}
		}
	}
}

// questionEnd is where the question of a query made by ednstest.Query ends.
func questionEnd(query []byte) int {
	q, err := wire.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	return q.QEnd
}

// TestMalformedUDP: what is too short to have a header gets nothing; what has one, and
// is no reply, gets an error that is no longer than itself. What is a reply gets nothing,
// so that no two servers can be set on each other.
func TestMalformedUDP(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0")
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(4, 5))
	buf := make([]byte, 65536)
	good, err := question("resolver.arpa", dns.TypeSVCB).Pack() // answered at once, and so in order
	if err != nil {
		t.Fatal(err)
	}
	for n := range 80 {
		msg := make([]byte, n)
		for i := range msg {
			msg[i] = byte(rng.Uint32())
		}
		for _, isReply := range []bool{false, true} {
			want := n >= wire.HeaderLen && !isReply
			if n > 2 {
				msg[2] &^= 0xF8 // a query,
				if isReply {
					msg[2] |= 0x80
				}
			}
			if n > 5 {
				msg[4], msg[5] = 0xFF, 0xFF // of too many questions
			}
			// The reply to a good query comes after that to the bad one, if there is
			// one: they come in by the same socket.
			id := uint16(0xAA00 + n)
			wire.SetID(good, id)
			for _, b := range [][]byte{msg, good} {
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			got := 0
			for {
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
				m, err := c.Read(buf)
				if err != nil {
					t.Fatalf("%d bytes: %v", n, err)
				}
				if binary.BigEndian.Uint16(buf) == id && buf[3]&0xF == 0 {
					break
				}
				got++
				if m > max(n, wire.HeaderLen) || buf[2]&0x80 == 0 || buf[3]&0xF != dns.RcodeFormatError {
					t.Errorf("% x was answered with % x", msg, buf[:m])
				}
			}
			if (got == 1) != want || got > 1 {
				t.Errorf("%d bytes, a reply %v: %d replies", n, isReply, got)
			}
		}
	}
}

// TestOwnErrors: what Sotto itself says of a failure is short.
func TestOwnErrors(t *testing.T) {
	const factor = 9
	short := ednstest.Query(".", dns.TypeA, 0x0100, &ednstest.OPT{Size: 65535})
	q, err := wire.ParseQuery(short)
	if err != nil {
		t.Fatal(err)
	}
	for _, why := range []error{errOverloaded, errGreedy, errClosed, errStaleGone, context.DeadlineExceeded, fmt.Errorf("%s", strings.Repeat("long ", 100))} {
		if reply := wire.AppendError(nil, &q, wire.RcodeServFail, reason(why)); len(reply) > factor*len(short) {
			t.Errorf("%v: %d bytes to a query of %d", why, len(reply), len(short))
		}
	}
}

// TestAnswersAnything: a query from the port of a service that answers whatever it
// gets is dropped. From the port of another nameserver it is answered: some ask
// from there.
func TestAnswersAnything(t *testing.T) {
	f, err := New(t.Context(), Config{Upstream: newZoneUpstream(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	s, err := newUDPServer(f, u)
	if err != nil {
		t.Fatal(err)
	}
	query := ednstest.Query("resolver.arpa", dns.TypeSVCB, 0x0100, nil) // answered at once
	for _, port := range []uint16{0, 7, 13, 17, 19, 37, 464, 53, 1024, 5353, 65535} {
		copy(s.in.data[0], query)
		s.in.hdrs[0].n = uint32(len(query))
		binary.NativeEndian.PutUint16(s.in.names[0][:], unix.AF_INET)
		binary.BigEndian.PutUint16(s.in.names[0][2:], port)
		want := !slices.Contains([]uint16{0, 7, 13, 17, 19, 37, 464}, port)
		if got := s.handle(0, time.Now(), 0); got != want {
			t.Errorf("from port %d: answered %v", port, got)
		}
	}
}
