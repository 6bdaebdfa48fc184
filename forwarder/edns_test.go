// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
	"sotto/internal/ednstest"
)

// askRaw sends a message and returns the bytes of the reply.
func askRaw(t *testing.T, proto string, at netip.AddrPort, query []byte) []byte {
	t.Helper()
	c, err := net.Dial(proto, at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dc := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	_ = dc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := dc.Write(query); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, dns.MaxMsgSize)
	n, err := dc.Read(b)
	if err != nil {
		t.Fatalf("%s over %s: %v", fmt.Sprintf("%x", query), proto, err)
	}
	return b[:n]
}

// TestEDNSCompliance sends the queries of ISC's EDNS compliance tester.
func TestEDNSCompliance(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	for _, q := range ednstest.Questions {
		for _, proto := range []string{"udp", "tcp"} {
			reply := askRaw(t, proto, at, q.Query())
			if err := q.Check(reply, proto == "udp"); err != nil {
				t.Errorf("%s over %s: %v in % x", q.Name, proto, err, reply)
			}
		}
	}
}

// TestUpstreamFormErr: FORMERR of an upstream concerns Sotto's own query. A client gets
// SERVFAIL with the reason, or a stale answer.
func TestUpstreamFormErr(t *testing.T) {
	up := exchangeFunc(func(_ context.Context, q []byte) ([]byte, error) {
		m := new(dns.Msg)
		if err := m.Unpack(q); err != nil {
			return nil, err
		}
		return m.SetRcode(m, dns.RcodeFormatError).Pack()
	})
	at := start(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
	for _, edns := range []bool{false, true} {
		m := question("a.example", dns.TypeA)
		if edns {
			m.SetEdns0(1232, false)
		}
		r := ask(t, "udp", at, m)
		if r.Rcode != dns.RcodeServerFailure || (r.IsEdns0() != nil) != edns {
			t.Errorf("EDNS %v: %v", edns, r)
		}
		if e := ede(r); edns && (e == nil || !strings.Contains(e.ExtraText, "FORMERR")) {
			t.Errorf("EDE %v, want one that names FORMERR", e)
		}
	}
}

// TestUnsignedIsNotCached: a reply without OPT has no signatures, although the client wants
// them. The next such query is sent upstream again; others are answered from the cache.
func TestUnsignedIsNotCached(t *testing.T) {
	var asked atomic.Int64
	good := newZoneUpstream(t)
	up := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		asked.Add(1)
		if bare, ok := wire.AppendWithoutOPT(nil, q); ok {
			q = bare
		}
		return good.answer(ctx, q)
	})
	at := start(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
	for _, do := range []bool{true, false} {
		asked.Store(0)
		for range 3 {
			m := question("a.example", dns.TypeA)
			m.SetEdns0(1232, do)
			if r := ask(t, "udp", at, m); r.Rcode != dns.RcodeSuccess || r.IsEdns0() == nil {
				t.Errorf("DO %v: %v", do, r)
			}
		}
		if want := map[bool]int64{true: 3, false: 1}[do]; asked.Load() != want {
			t.Errorf("DO %v: %d upstream queries, want %d", do, asked.Load(), want)
		}
	}
}

// TestTrailingBytes: bytes after the last record are discarded, those of a query and those
// of an upstream's reply. The reply of an original destination reaches the client unchanged.
func TestTrailingBytes(t *testing.T) {
	extra := []byte("after the last record")
	zone := newZoneUpstream(t)
	up := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		reply, err := zone.answer(ctx, q)
		return append(reply, extra...), err
	})
	arrived := make(chan []byte, 1)
	origin := nameserver(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		arrived <- bytes.Clone(r.Query)
		a := zone.zone.Answer(r)
		a.Msg = append(a.Msg, extra...)
		return a
	}))
	forward := start(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
	relay := startRelay(t, origin)
	query, err := withEDNS("www.example.com", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"udp", "tcp", "udp"} {
		reply := askRaw(t, proto, forward, append(bytes.Clone(query), extra...))
		m := new(dns.Msg)
		if err := m.Unpack(reply); err != nil || len(m.Answer) == 0 || bytes.Contains(reply, extra) {
			t.Errorf("%s: %x, %v: want an answer without trailing bytes", proto, reply, err)
		}
		reply = askRaw(t, proto, relay, append(bytes.Clone(query), extra...))
		if sent := <-arrived; !bytes.Equal(sent[2:], query[2:]) {
			t.Errorf("%s: the nameserver received %x, want %x", proto, sent, query)
		}
		if !bytes.HasSuffix(reply, extra) {
			t.Errorf("%s: the nameserver's reply was changed: %x", proto, reply)
		}
	}
}
