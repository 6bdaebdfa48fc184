// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

func TestExchange(t *testing.T) {
	for _, at := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		both(t, func(t *testing.T, tcp bool) {
			addr := netip.MustParseAddr(at)
			s := serve(t, addr.Unmap(), zone(t))
			query := ask(t, "www.Example.", dns.TypeAAAA)
			orig := bytes.Clone(query)
			reply, err := New(Config{}).Exchange(t.Context(), netip.AddrPortFrom(addr, s.Addr().Port()), 0, query, tcp, inAWhile())
			if err != nil {
				t.Fatal(err)
			}
			if !wire.SameQuestion(query, reply) || wire.ID(reply) != 0 {
				t.Errorf("reply %x", reply)
			}
			if r, err := wire.ParseReply(reply); err != nil || len(r.TTLs) != 1 {
				t.Errorf("%d records, %v", len(r.TTLs), err)
			}
			if got := s.Log()[0].Query; !sameButID(query, got) || !bytes.Equal(query, orig) {
				t.Errorf("sent %x: want %x except for the ID", got, orig)
			}
		})
	}
}

// TestUnchanged: queries and replies of any kind are passed on unchanged.
func TestUnchanged(t *testing.T) {
	s := serve(t, loopback, echo())
	c := New(Config{})
	plainly := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	plainly.RecursionDesired = false
	edns := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	edns.SetEdns0(4096, true)
	edns.IsEdns0().Option = append(edns.IsEdns0().Option,
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}})
	update := new(dns.Msg).SetUpdate("example.")
	update.Insert([]dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.example.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: []byte{192, 0, 2, 1}}})
	signed := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	signed.SetTsig("key.", dns.HmacSHA256, 300, time.Now().Unix())
	msgs := map[string]*dns.Msg{"RD=0": plainly, "EDNS": edns, "NOTIFY": new(dns.Msg).SetNotify("example."), "UPDATE": update, "TSIG": signed}
	for name, m := range msgs {
		both(t, func(t *testing.T, tcp bool) {
			query := pack(t, m)
			reply, err := c.Exchange(t.Context(), s.Addr(), 0, query, tcp, inAWhile())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			reply[2] &^= bitQR
			if !sameButID(query, reply) || wire.ID(reply) != 0 {
				t.Errorf("%s: echoed\n%x: want\n%x", name, reply, query)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	s := serve(t, loopback, zone(t))
	c := New(Config{})
	query := ask(t, "txt-20000.example.", dns.TypeTXT)
	reply, err := c.Exchange(t.Context(), s.Addr(), 0, query, false, inAWhile())
	if err != nil || reply[2]&2 == 0 {
		t.Fatalf("%x, %v: want TC", reply, err)
	}
	reply, err = c.Exchange(t.Context(), s.Addr(), 0, query, true, inAWhile())
	if err != nil || len(reply) < 20000 || reply[2]&2 != 0 {
		t.Errorf("%d bytes, %v", len(reply), err)
	}
}

// TestLong: the longest possible replies.
func TestLong(t *testing.T) {
	const maxUDP = 65507 // less IPv4's and UDP's headers
	s := serve(t, loopback, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		n := wire.MaxMessage
		if r.Transport == dnstest.UDP {
			n = maxUDP
		}
		msg := append(bytes.Clone(r.Query), make([]byte, n-len(r.Query))...)
		msg[2] |= bitQR
		return dnstest.Answer{Msg: msg}
	}))
	c := New(Config{})
	for tcp, want := range map[bool]int{false: maxUDP, true: wire.MaxMessage} {
		reply, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, inAWhile())
		if err != nil || len(reply) != want {
			t.Errorf("tcp %v: %d bytes, %v", tcp, len(reply), err)
		}
	}
	long := append(ask(t, "a.", dns.TypeA), make([]byte, 65500)...)
	_, err := c.Exchange(t.Context(), s.Addr(), 0, long, false, inAWhile())
	fails(t, err, wire.EDEOther, syscall.EMSGSIZE, "the query is too long for a datagram: retry over TCP")
	if reply, err := c.Exchange(t.Context(), s.Addr(), 0, long, true, inAWhile()); err != nil || len(reply) != wire.MaxMessage {
		t.Errorf("%d bytes, %v", len(reply), err)
	}
}

// TestBareReplies: only an error reply and the reply to an UPDATE may lack the question.
func TestBareReplies(t *testing.T) {
	both(t, func(t *testing.T, tcp bool) {
		h := dnstest.NewSwitch(dnstest.HeaderOnly(dnstest.RcodeRefused))
		s := serve(t, loopback, h)
		c := New(Config{})
		reply, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, inAWhile())
		if err != nil || wire.Rcode(reply) != wire.RcodeRefused {
			t.Fatalf("%x, %v", reply, err)
		}
		h.Set(dnstest.HeaderOnly(dnstest.RcodeSuccess))
		if reply, err = c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, soon()); err == nil {
			t.Errorf("%x was accepted", reply)
		}
		update := pack(t, new(dns.Msg).SetUpdate("example."))
		if _, err := c.Exchange(t.Context(), s.Addr(), 0, update, tcp, inAWhile()); err != nil {
			t.Errorf("UPDATE: %v", err)
		}
	})
}

// TestResend: a lost query is resent from the same socket, an UPDATE is not.
func TestResend(t *testing.T) {
	h := dnstest.NewSwitch(dnstest.Silent())
	s := serve(t, loopback, h)
	c := New(Config{})
	c.resend = []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, time.Hour}
	_, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), false, time.Now().Add(2*time.Second))
	if !isTimeout(err) {
		t.Fatal(err)
	}
	log := s.Log()
	if len(log) != 3 || !bytes.Equal(log[0].Query, log[2].Query) || log[0].Remote != log[2].Remote {
		t.Errorf("sent %+v: want the same three times", log)
	}
	var e *Error
	if !errors.As(err, &e) || e.Code != wire.EDENoReachableAuthority || !strings.HasPrefix(e.Reason, "no answer within 2") {
		t.Errorf("%v", err)
	}
	_, err = c.Exchange(t.Context(), s.Addr(), 0, pack(t, new(dns.Msg).SetUpdate("example.")), false, soon())
	if n := len(s.Log()) - 3; !isTimeout(err) || n != 1 {
		t.Errorf("%v: an UPDATE was sent %d times", err, n)
	}
	var seen sync.Map
	z := zone(t)
	h.Set(dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if _, again := seen.LoadOrStore(r.Remote, true); !again {
			return dnstest.Answer{}
		}
		return z.Answer(r)
	}))
	if _, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), false, inAWhile()); err != nil {
		t.Errorf("after one lost query: %v", err)
	}
	if len(resendAfter) != 2 || resendAfter[0] < 500*time.Millisecond || resendAfter[1] > 3*time.Second {
		t.Errorf("queries are resent after %v", resendAfter)
	}
}

func TestCancel(t *testing.T) {
	both(t, func(t *testing.T, tcp bool) {
		ctx, cancel := context.WithCancel(t.Context())
		s := serve(t, loopback, dnstest.HandlerFunc(func(*dnstest.Request) dnstest.Answer { cancel(); return dnstest.Answer{} }))
		started := time.Now()
		_, err := New(Config{}).Exchange(ctx, s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, inAWhile())
		fails(t, err, wire.EDEOther, context.Canceled, "the query was cancelled")
		if time.Since(started) > 20*time.Second {
			t.Error("cancelling had no effect")
		}
		_, err = New(Config{}).Exchange(ctx, s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, inAWhile())
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with a cancelled context: %v", err)
		}
	})
}

// TestPast: no query is sent if the deadline has passed.
func TestPast(t *testing.T) {
	both(t, func(t *testing.T, tcp bool) {
		s := serve(t, loopback, zone(t))
		_, err := New(Config{}).Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, time.Now().Add(-time.Second))
		if !isTimeout(err) || s.Stats().Queries() != 0 {
			t.Errorf("%v, %d queries", err, s.Stats().Queries())
		}
	})
}

// TestControl: every socket is marked before it connects, and not used if that fails.
func TestControl(t *testing.T) {
	both(t, func(t *testing.T, tcp bool) {
		s := serve(t, loopback, zone(t))
		calls := 0
		c := New(Config{Control: func(_, _ string, rc syscall.RawConn) error {
			calls++
			return rc.Control(func(fd uintptr) {
				if _, err := syscall.Getpeername(int(fd)); !errors.Is(err, syscall.ENOTCONN) {
					t.Errorf("the socket is already connected: %v", err)
				}
			})
		}})
		if _, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, inAWhile()); err != nil || calls != 1 {
			t.Errorf("%d calls, %v", calls, err)
		}
		no := errors.New("no\nway")
		c = New(Config{Control: func(string, string, syscall.RawConn) error { return no }})
		_, err := c.Exchange(t.Context(), s.Addr(), 0, ask(t, "a.", dns.TypeA), tcp, inAWhile())
		fails(t, err, wire.EDEOther, no, "mark the socket as Sotto's own: no way")
		if n := s.Stats().Queries(); n != 1 {
			t.Errorf("%d queries were sent", n)
		}
	})
}

func TestMisuse(t *testing.T) {
	c := New(Config{})
	at := netip.AddrPortFrom(loopback, 53)
	for name, f := range map[string]func() error{
		"short": func() error {
			_, err := c.Exchange(t.Context(), at, 0, make([]byte, 11), false, inAWhile())
			return err
		},
		"long": func() error {
			_, err := c.Exchange(t.Context(), at, 0, make([]byte, 65536), true, inAWhile())
			return err
		},
		"reply": func() error {
			_, err := c.Exchange(t.Context(), at, 0, []byte("\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"), false, inAWhile())
			return err
		},
		"no address": func() error {
			_, err := c.Exchange(t.Context(), netip.AddrPort{}, 0, ask(t, "a.", 1), false, inAWhile())
			return err
		},
		"no port": func() error {
			_, err := c.Exchange(t.Context(), netip.AddrPortFrom(loopback, 0), 0, ask(t, "a.", 1), false, inAWhile())
			return err
		},
		"no transfer": func() error { return c.Transfer(t.Context(), at, ask(t, "a.", 1), inAWhile(), nil) },
	} {
		var e *Error
		if err := f(); !errors.As(err, &e) || e.Code != wire.EDEOther || !isAny(err, errBadAddress, errNotQuery, errNotTransfer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	s := serve(b, loopback, zone(b))
	query := ask(b, "www.example.", dns.TypeA)
	for _, v := range []struct {
		name       string
		tcp, reuse bool
	}{{"udp", false, true}, {"udp-new-socket", false, false}, {"tcp", true, false}} {
		b.Run(v.name, func(b *testing.B) {
			c := New(Config{})
			defer c.Close()
			c.reuse = v.reuse
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Exchange(b.Context(), s.Addr(), 0, query, v.tcp, inAWhile()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
