// SPDX-License-Identifier: Apache-2.0

package rebind

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// upstream answers every query with these records, those in extra in the additional section.
type upstream struct {
	answer, extra []string
	do            bool
}

func (u upstream) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetReply(&q)
	m.Compress = true
	m.SetEdns0(1232, u.do)
	for _, text := range u.answer {
		m.Answer = append(m.Answer, mustRR(text))
	}
	for _, text := range u.extra {
		m.Extra = append(m.Extra, mustRR(text))
	}
	return m.Pack()
}

func mustRR(text string) dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return rr
}

// query returns an upstream query as the forwarder sends it.
func query(t *testing.T, name string, typ uint16) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	q.EDNS = true
	return wire.AppendQuery(nil, &q)
}

// exchange returns the reply to a query, as another library reads it and as the forwarder does.
func exchange(t *testing.T, x *Exchanger, name string, typ uint16) (*dns.Msg, wire.Reply) {
	t.Helper()
	q := query(t, name, typ)
	msg, err := x.Exchange(t.Context(), q, time.Now().Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if !wire.SameQuestion(q, msg) {
		t.Fatalf("the reply has another question")
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		t.Fatal(err)
	}
	r, err := wire.ParseReply(msg)
	if err != nil {
		t.Fatal(err)
	}
	return &m, r
}

const name = "www.Example.org."

// answers are answers for name, and whether they are passed on.
var answers = []struct {
	records string // separated by |
	typ     uint16
	private string // the address in the reason; "" if the answer is passed on
}{
	{"www.example.org. 60 A 9.9.9.9", dns.TypeA, ""},
	{"www.example.org. 60 A 9.9.9.9|www.example.org. 60 A 192.168.1.1", dns.TypeA, "192.168.1.1"},
	{"www.example.org. 60 CNAME a.example.|a.example. 60 A 10.0.0.1", dns.TypeA, "10.0.0.1"},
	{"www.example.org. 60 A 0.0.0.0", dns.TypeA, "0.0.0.0"},
	{"www.example.org. 60 A 127.0.0.1", dns.TypeA, "127.0.0.1"},
	{"www.example.org. 60 A 169.254.169.254", dns.TypeA, "169.254.169.254"},
	{"www.example.org. 60 A 172.31.255.255", dns.TypeA, "172.31.255.255"},
	{"www.example.org. 60 A 172.32.0.1", dns.TypeA, ""},
	{"www.example.org. 60 A 100.64.0.1", dns.TypeA, "100.64.0.1"},
	{"www.example.org. 60 AAAA 2001:4860::1", dns.TypeAAAA, ""},
	{"www.example.org. 60 AAAA ::", dns.TypeAAAA, "::"},
	{"www.example.org. 60 AAAA ::1", dns.TypeAAAA, "::1"},
	{"www.example.org. 60 AAAA fd00::1", dns.TypeAAAA, "fd00::1"},
	{"www.example.org. 60 AAAA fe80::1", dns.TypeAAAA, "fe80::1"},
	{"www.example.org. 60 AAAA ::ffff:9.9.9.9", dns.TypeAAAA, "::ffff:9.9.9.9"},
	{"www.example.org. 60 AAAA 64:ff9b::a00:1", dns.TypeAAAA, "64:ff9b::a00:1"},
	{"www.example.org. 60 AAAA 64:ff9b::909:909", dns.TypeAAAA, ""},
	{"www.example.org. 60 AAAA 2002:c0a8:101::1", dns.TypeAAAA, "2002:c0a8:101::1"},
	{"www.example.org. 60 AAAA 2001:db8:64::a00:1", dns.TypeAAAA, "2001:db8:64::a00:1"}, // of the extractor
	{"www.example.org. 60 AAAA 2001:db8:64::909:909", dns.TypeAAAA, ""},
	{`www.example.org. 60 HTTPS 1 . alpn="h2" ipv4hint="9.9.9.9,192.168.7.7"`, dns.TypeHTTPS, "192.168.7.7"},
	{`www.example.org. 60 SVCB 1 x.example. ipv6hint="2001:4860::1,fd00::7"`, dns.TypeSVCB, "fd00::7"},
	{`www.example.org. 60 HTTPS 1 x.example. alpn="h2" ipv4hint="9.9.9.9" ipv6hint="2001:4860::1"`, dns.TypeHTTPS, ""},
	{`www.example.org. 60 TXT "192.168.1.1"`, dns.TypeTXT, ""},
}

func TestExchange(t *testing.T) {
	for _, tc := range answers {
		up := upstream{answer: strings.Split(tc.records, "|")}
		x := New(up, nil, func(_ context.Context, a netip.Addr, _ time.Time) (netip.Addr, bool, error) {
			b := a.As16()
			return netip.AddrFrom4([4]byte(b[12:])), netip.MustParsePrefix("2001:db8:64::/96").Contains(a), nil
		})
		m, r := exchange(t, x, name, tc.typ)
		if tc.private == "" {
			if len(m.Answer) != len(up.answer) || len(r.EDE) != 0 {
				t.Errorf("%s: %v", tc.records, m)
			}
			continue
		}
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 || r.TTL != wire.LocalTTL || !r.EDNS || len(r.EDE) != 1 ||
			r.EDE[0].Code != wire.EDEBlocked || !strings.Contains(r.EDE[0].Text, name+" has the address "+tc.private+",") {
			t.Errorf("%s: %v, %+v", tc.records, m, r.EDE)
		}
		for _, allowed := range []string{"www.example.org", "EXAMPLE.org", "org"} {
			wn, err := wire.AppendParsed(nil, allowed)
			if err != nil {
				t.Fatal(err)
			}
			if m, _ := exchange(t, New(up, [][]byte{wn}, x.extract), name, tc.typ); len(m.Answer) != len(up.answer) {
				t.Errorf("%s, %s allowed: %v", tc.records, allowed, m)
			}
		}
		wn, _ := wire.AppendParsed(nil, "ww.example.org")
		if m, _ := exchange(t, New(up, [][]byte{wn}, x.extract), name, tc.typ); len(m.Answer) != 0 {
			t.Errorf("%s, another name allowed: %v", tc.records, m)
		}
	}
}

// TestAdditional: a private address in the additional section removes that, but not OPT.
func TestAdditional(t *testing.T) {
	up := upstream{answer: []string{"example.org. 60 MX 10 mail.example.org."}, extra: []string{"mail.example.org. 60 A 192.0.2.1", "mail.example.org. 60 A 10.0.0.1"}}
	m, r := exchange(t, New(up, nil, nil), "example.org.", dns.TypeMX)
	if len(m.Answer) != 1 || len(m.Extra) != 1 || m.IsEdns0() == nil || !r.EDNS {
		t.Errorf("%v", m)
	}
}

// TestUnknownPrefix: if it cannot be found out whether an IPv6 address stands for an IPv4 address, the
// query fails, unless the answer is refused for another reason or the name is allowed. Only such
// addresses are looked up.
func TestUnknownPrefix(t *testing.T) {
	unknown := errors.New("unknown")
	for records, want := range map[string]error{
		"www.example.org. 60 AAAA 2001:4860::1":                                        unknown,
		`www.example.org. 60 HTTPS 1 . ipv6hint="2001:4860::1"`:                        unknown,
		"www.example.org. 60 A 9.9.9.9":                                                nil,
		`www.example.org. 60 HTTPS 1 . ipv4hint="9.9.9.9"`:                             nil,
		"www.example.org. 60 AAAA fd00::1":                                             nil,
		"www.example.org. 60 A 192.168.1.1|www.example.org. 60 AAAA 2001:4860::1":      nil,
		`www.example.org. 60 HTTPS 1 . ipv4hint="192.168.1.1" ipv6hint="2001:4860::1"`: nil,
	} {
		asked := 0
		extract := func(context.Context, netip.Addr, time.Time) (netip.Addr, bool, error) {
			asked++
			return netip.Addr{}, false, unknown
		}
		up := upstream{answer: strings.Split(records, "|")}
		q := query(t, name, dns.TypeAAAA)
		if _, err := New(up, nil, extract).Exchange(t.Context(), q, time.Now().Add(time.Second)); !errors.Is(err, want) || (asked > 0) != (want != nil) {
			t.Errorf("%s: %v after %d look-ups", records, err, asked)
		}
		asked = 0
		allowed := New(up, [][]byte{[]byte("\x03org\x00")}, extract)
		if _, err := allowed.Exchange(t.Context(), q, time.Now().Add(time.Second)); err != nil || asked > 0 {
			t.Errorf("%s, allowed: %v after %d look-ups", records, err, asked)
		}
	}
	extra := upstream{answer: []string{"www.example.org. 60 A 9.9.9.9"}, extra: []string{"ns.example.org. 60 AAAA 2001:4860::1"}}
	x := New(extra, nil, func(context.Context, netip.Addr, time.Time) (netip.Addr, bool, error) {
		return netip.Addr{}, false, unknown
	})
	if m, _ := exchange(t, x, name, dns.TypeA); len(m.Answer) != 1 || len(m.Extra) != 1 {
		t.Errorf("the additional section: %v", m)
	}
}

// FuzzCheck: no reply makes the check fail, and a reply that it passes on has no private address.
func FuzzCheck(f *testing.F) {
	q := []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01")
	f.Add(append(append([]byte(nil), q...), "\xc0\x0c\x00\x41\x00\x01\x00\x00\x00\x01\x00\x0f\x00\x01\x00\x00\x04\x00\x08\x0a\x00\x00\x01\x09\x09\x09\x09"...))
	f.Fuzz(func(t *testing.T, reply []byte) {
		x := New(nil, nil, nil)
		out, err := x.check(q, append([]byte(nil), reply...), nil)
		if err != nil {
			t.Fatal(err)
		}
		for rr := range wire.Records(out) {
			if a, _ := privateIn(out, rr, nil); a.IsValid() {
				t.Errorf("%v is passed on in section %d", a, rr.Section)
			}
		}
	})
}
