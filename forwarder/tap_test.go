// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/admission"
	"sotto/forwarder/tap"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// taps collects messages, with a copy of their data.
type taps struct {
	mu  sync.Mutex
	all []tap.Message
}

func (c *taps) add(m tap.Message) {
	m.Data = bytes.Clone(m.Data)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, m)
}

func (c *taps) take() (all []tap.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, c.all = c.all, nil
	return all
}

// rawAsk sends a message and returns the reply, and the client's address.
func rawAsk(t *testing.T, proto string, to netip.AddrPort, query []byte) (reply []byte, client netip.AddrPort) {
	t.Helper()
	c, err := net.Dial(proto, to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	client = netip.MustParseAddrPort(c.LocalAddr().String())
	if proto == "udp" {
		if _, err := c.Write(query); err != nil {
			t.Fatal(err)
		}
		reply = make([]byte, wire.MaxMessage)
		n, err := c.Read(reply)
		if err != nil {
			t.Fatal(err)
		}
		return reply[:n], client
	}
	if _, err := c.Write(wire.AppendFrame(nil, query)); err != nil {
		t.Fatal(err)
	}
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		t.Fatal(err)
	}
	reply = make([]byte, binary.BigEndian.Uint16(n[:]))
	if _, err := io.ReadFull(c, reply); err != nil {
		t.Fatal(err)
	}
	return reply, client
}

// checkExchange checks the two messages about a query of a client.
func checkExchange(t *testing.T, what string, got []tap.Message, want tap.Message, query, reply []byte, before time.Time) {
	t.Helper()
	if len(got) != 2 {
		t.Errorf("%s: %d messages: %+v", what, len(got), got)
		return
	}
	for i, m := range got {
		want.Kind, want.Data, want.Queried, want.Replied = tap.ClientQuery, query, m.Queried, m.Replied
		if i == 1 {
			want.Kind, want.Data = tap.ClientResponse, reply
		}
		if fmt.Sprint(m) != fmt.Sprint(want) {
			t.Errorf("%s:\n%+v, want\n%+v", what, m, want)
		}
	}
	now := time.Now()
	if q, r := got[0].Queried, got[1].Replied; !got[0].Replied.IsZero() || q.Before(before) || r.Before(q) || r.After(now) || got[1].Queried != q {
		t.Errorf("%s: times %+v", what, got)
	}
}

// TestTap: the tap gets the bytes that a client sent and got, whatever answers it.
func TestTap(t *testing.T) {
	var c taps
	stale := staleCache(t)
	old := withEDNS("stale.example.com", dns.TypeA)
	put(t, stale, old, 30*time.Minute)
	up := newZoneUpstream(t)
	failing := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		if bytes.Contains(q, []byte("stale")) || bytes.Contains(q, []byte("fail")) {
			return nil, errors.New("the cable is cut")
		}
		return up.answer(ctx, q)
	})
	f, at := startForwarder(t, Config{Upstream: failing, Cache: stale, StaleAfter: time.Minute, MaxMisses: 1, Tap: c.add,
		Route: func(q *wire.Query, _ *Origin) Route {
			if bytes.Contains(q.Name, []byte("blocked")) {
				return Route{Action: NXDomain, Rule: 1}
			}
			return Route{}
		}}, "127.0.0.1:0")
	refused := question("www.example.com", dns.TypeA)
	refused.RecursionDesired = false
	other := admission.SourceOf("/other", netip.Addr{})
	for _, tc := range []struct {
		what string
		m    *dns.Msg
		full bool // all upstream queries are in use
	}{
		{"a miss", question("www.example.com", dns.TypeA), false},
		{"a hit", withCookie("WWW.example.com", "0123456789abcdef"), false},
		{"a refusal", refused, false},
		{"an answer of a rule", question("blocked.example", dns.TypeA), false},
		{"a failure", withEDNS("fail.example.com", dns.TypeA), false},
		{"a stale answer", old, false},
		{"over capacity", question("new.example.com", dns.TypeA), true},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			if proto == "tcp" && tc.what == "a miss" {
				tc.m = question("www2.example.com", dns.TypeA)
			}
			query, err := tc.m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if tc.full {
				if err := f.flights.misses.Acquire(other); err != nil {
					t.Fatal(err)
				}
			}
			before := time.Now()
			reply, client := rawAsk(t, proto, at, query)
			if tc.full {
				f.flights.misses.Release(other)
			}
			want := tap.Message{Querier: client, Responder: at, Proto: tap.UDP}
			if proto == "tcp" {
				want.Proto = tap.TCP
			}
			checkExchange(t, tc.what+" over "+proto, c.take(), want, query, reply, before)
		}
	}
	// A message that gets no reply is not a query.
	if conn, err := net.Dial("udp", at.String()); err != nil {
		t.Fatal(err)
	} else if _, err := conn.Write([]byte("not a query")); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}
	if _, _ = rawAsk(t, "udp", at, mustPack(t, refused)); len(c.take()) != 2 {
		t.Error("a message without a reply is shown")
	}
}

func mustPack(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTapRelay: for a query to its original destination, the tap also gets what was sent there
// and received. The client's messages are with the nameserver that it asked.
func TestTapRelay(t *testing.T) {
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	origin := nameserver(t, zone)
	var c taps
	cfg := relayConfig(t, origin)
	cfg.Tap = c.add
	at := start(t, cfg, "127.0.0.1:0")
	for proto, number := range map[string]tap.Proto{"udp": tap.UDP, "tcp": tap.TCP} {
		query := mustPack(t, question("www.example.com", dns.TypeA))
		before := time.Now()
		reply, client := rawAsk(t, proto, at, query)
		all := c.take()
		isClient := func(m tap.Message) bool { return m.Kind == tap.ClientQuery || m.Kind == tap.ClientResponse }
		forwarded := slices.DeleteFunc(slices.Clone(all), isClient)
		all = slices.DeleteFunc(all, func(m tap.Message) bool { return !isClient(m) })
		checkExchange(t, proto, all, tap.Message{Querier: client, Responder: origin, Proto: number, Workload: "test"}, query, reply, before)
		if len(forwarded) != 2 || forwarded[0].Kind != tap.ForwarderQuery || forwarded[1].Kind != tap.ForwarderResponse {
			t.Fatalf("%s: %+v", proto, forwarded)
		}
		for i, data := range [][]byte{query, reply} {
			m := forwarded[i]
			if !bytes.Equal(m.Data[2:], data[2:]) || m.Responder != origin || m.Querier.IsValid() || m.Proto != number || m.Queried.Before(before) || m.Replied.IsZero() != (i == 0) {
				t.Errorf("%s: %+v, want %x", proto, m, data)
			}
		}
	}
}
