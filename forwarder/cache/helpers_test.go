// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// t0 is the start time of the tests.
var t0 = time.Unix(1_700_000_000, 0)

// exchange returns the parsed query for name and the upstream's reply to it.
func exchange(t testing.TB, name string, rcode int, answer, ns string, ede ...dns.EDNS0) (wire.Query, wire.Reply) {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(b)
	if err != nil {
		t.Fatal(err)
	}
	resp := new(dns.Msg)
	resp.SetRcode(m, rcode)
	resp.Compress = true
	for _, s := range []struct {
		text string
		to   *[]dns.RR
	}{{answer, &resp.Answer}, {ns, &resp.Ns}} {
		zp := dns.NewZoneParser(bytes.NewReader([]byte(s.text)), "", "")
		for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
			*s.to = append(*s.to, rr)
		}
		if err := zp.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if len(ede) > 0 {
		resp.SetEdns0(1232, false)
		resp.IsEdns0().Option = ede
	}
	if b, err = resp.Pack(); err != nil {
		t.Fatal(err)
	}
	r, err := wire.ParseReply(b)
	if err != nil {
		t.Fatal(err)
	}
	return q, r
}

// unpack parses a client's reply.
func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return m
}

func newCache(t testing.TB, cfg Config) *Cache {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// number writes i into the first label of key's name and of r's question, to make many
// different entries from one exchange.
func number(key []byte, r *wire.Reply, i int) {
	for at := range 3 {
		c := "0123456789abcdefghijklmnopqrstuvwxyz-"[i%37]
		key[1+at], r.Msg[wire.HeaderLen+1+at] = c, c
		i /= 37
	}
}

const (
	positive = "www.example. 300 IN A 192.0.2.1\n"
	negative = "example. 600 IN SOA ns. host. 1 2 3 4 400\n"
)
