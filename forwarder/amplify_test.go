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

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
	"sotto/internal/ednstest"
)

// maxFactor is the maximum ratio of a UDP reply's length to its query's: 1,232 bytes
// for the shortest query that allows so many, which has 28.
const maxFactor = 44

// anyUpstream answers ANY with many records, and other types from the zone.
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

// TestAmplification: a UDP reply is never longer than the client accepts, nor longer than
// 1,232 bytes. If the answer does not fit, the reply has only header, question and OPT, so
// that a forged query is not amplified.
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

// questionEnd returns the offset after the question of a query made by ednstest.Query.
func questionEnd(query []byte) int {
	q, err := wire.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	return q.QEnd
}

// TestMalformedUDP: a message without a complete header is dropped. A malformed query
// gets an error that is not longer than the query. A reply is dropped, so that two servers
// cannot be made to send to each other.
func TestMalformedUDP(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0")
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(4, 5))
	buf := make([]byte, 65536)
	good, err := question("resolver.arpa", dns.TypeSVCB).Pack() // answered immediately, and so in order
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
			// The reply to the good query comes after that to the bad one, if there is
			// one, since both arrive at the same socket.
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

// TestOwnErrors: Sotto's own error replies are short.
func TestOwnErrors(t *testing.T) {
	const factor = 9
	short := ednstest.Query(".", dns.TypeA, 0x0100, &ednstest.OPT{Size: 65535})
	q, err := wire.ParseQuery(short)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{admission.ErrOverloaded, admission.ErrOverShare, errClosed, context.DeadlineExceeded, fmt.Errorf("%s", strings.Repeat("long ", 100))} {
		if reply := wire.AppendError(nil, &q, wire.RcodeServFail, edeOf(err)); len(reply) > factor*len(short) {
			t.Errorf("%v: %d bytes to a query of %d", err, len(reply), len(short))
		}
	}
}

// TestAnswersAnything: a query from the port of a service that answers every packet is
// dropped. A query from port 53 is answered: some nameservers send from there.
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
	query := ednstest.Query("resolver.arpa", dns.TypeSVCB, 0x0100, nil) // answered immediately
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
