// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"

	"github.com/miekg/dns"
)

// pack returns a message of miekg/dns as bytes.
func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("pack: %v", err)
	}
	return b
}

// unpack is the opposite.
func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack %x: %v", b, err)
	}
	return m
}

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return r
}

// TestRoundTrip takes one query to its upstream and its reply back.
func TestRoundTrip(t *testing.T) {
	m := new(dns.Msg)
	m.SetQuestion("WwW.Example.COM.", dns.TypeA)
	m.Id = 4711
	m.SetEdns0(4096, true)
	q, err := ParseQuery(pack(t, m))
	if err != nil {
		t.Fatal(err)
	}
	up := AppendQuery(nil, &q)
	if len(up)%128 != 0 {
		t.Errorf("upstream query of %d bytes: want a multiple of 128 (RFC 8467)", len(up))
	}
	resp := new(dns.Msg)
	resp.SetReply(unpack(t, up))
	resp.Authoritative = true
	resp.Compress = true
	resp.Answer = append(resp.Answer, rr(t, "www.example.com. 300 IN A 192.0.2.1"))
	resp.SetEdns0(1232, true)
	raw := pack(t, resp)
	if !SameQuestion(up, raw) {
		t.Fatal("SameQuestion is false")
	}
	r, err := ParseReply(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r.TTL != 300 || len(r.TTLs) != 1 {
		t.Errorf("TTL %d, %d TTLs: want 300, 1", r.TTL, len(r.TTLs))
	}
	got := unpack(t, AppendReply(nil, &q, &r, 100, q.UDPLimit()))
	if got.Id != 4711 || got.Question[0].Name != "WwW.Example.COM." || got.Authoritative ||
		!got.RecursionAvailable || got.Answer[0].Header().Ttl != 200 || got.IsEdns0() == nil || !got.IsEdns0().Do() {
		t.Errorf("reply to the client:\n%v", got)
	}
}
