// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"bytes"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ask queries a zone, parses the reply with an independent parser and checks its header.
func ask(t *testing.T, z *Zone, tr Transport, name string, qtype uint16, do bool) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	if do {
		q.SetEdns0(1232, true)
	}
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a := z.Answer(&Request{Query: wire, Transport: tr})
	if a.Msg == nil {
		t.Fatalf("%s: no reply", name)
	}
	r := new(dns.Msg)
	if err := r.Unpack(a.Msg); err != nil {
		t.Fatalf("%s: the reply does not parse: %v", name, err)
	}
	if r.Id != q.Id || !r.Response || !r.RecursionAvailable || !r.RecursionDesired {
		t.Errorf("%s: header %+v", name, r.MsgHdr)
	}
	if len(r.Question) != 1 || r.Question[0] != q.Question[0] {
		t.Errorf("%s: question %v", name, r.Question)
	}
	if (r.IsEdns0() != nil) != do || do && !r.IsEdns0().Do() {
		t.Errorf("%s: OPT %v, query with DO %v", name, r.IsEdns0(), do)
	}
	return r
}

func testZone(t *testing.T, cfg ZoneConfig) *Zone {
	t.Helper()
	z, err := NewZone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestZone(t *testing.T) {
	z := testZone(t, ZoneConfig{Origin: "example.", TTL: 42 * time.Second, NegativeTTL: 7 * time.Second})
	for _, tc := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers int
		want    string // of the last answer, "" for none
	}{
		{"www.example", dns.TypeA, 0, 1, "www.example.\t42\tIN\tA\t192.0.2.1"},
		{"WWW.Example", dns.TypeAAAA, 0, 1, "WWW.Example.\t42\tIN\tAAAA\t2001:db8::1"},
		{"ttl-9.example", dns.TypeA, 0, 1, "ttl-9.example.\t9\tIN\tA\t192.0.2.1"},
		{"www.example", dns.TypeMX, 0, 1, "www.example.\t42\tIN\tMX\t10 mail.example."},
		{"www.example", dns.TypeSRV, 0, 1, "www.example.\t42\tIN\tSRV\t1 1 443 www.example."},
		{"www.example", dns.TypeHTTPS, 0, 1, "www.example.\t42\tIN\tHTTPS\t1 . alpn=\"h2,h3\" ipv4hint=\"192.0.2.1\" ipv6hint=\"2001:db8::1\""},
		{"cname-3.example", dns.TypeA, 0, 4, "alias3.example.\t42\tIN\tA\t192.0.2.1"},
		{"nxdomain1.example", dns.TypeA, dns.RcodeNameError, 0, ""},
		{"nodata.example", dns.TypeA, 0, 0, ""},
		{"servfail7.example", dns.TypeA, dns.RcodeServerFailure, 0, ""},
		{"www.elsewhere", dns.TypeA, dns.RcodeRefused, 0, ""},
		{"a-100.example", dns.TypeA, 0, 100, "a-100.example.\t42\tIN\tA\t192.0.0.99"},
		{"example", dns.TypeSOA, 0, 1, "example.\t42\tIN\tSOA\tns.example. hostmaster.example. 1 3600 600 86400 7"},
	} {
		r := ask(t, z, TLS, tc.name, tc.qtype, false)
		if r.Rcode != tc.rcode || len(r.Answer) != tc.answers {
			t.Errorf("%s %d: rcode %d with %d answers, want %d with %d", tc.name, tc.qtype, r.Rcode, len(r.Answer), tc.rcode, tc.answers)
			continue
		}
		if tc.answers > 0 && r.Answer[tc.answers-1].String() != tc.want {
			t.Errorf("%s %d:\n got %q\nwant %q", tc.name, tc.qtype, r.Answer[tc.answers-1], tc.want)
		}
		if tc.rcode == dns.RcodeNameError && (len(r.Ns) != 1 || r.Ns[0].Header().Ttl != 7) {
			t.Errorf("%s: authority %v, want a SOA with TTL 7", tc.name, r.Ns)
		}
	}
}

func TestZoneSigns(t *testing.T) {
	z := testZone(t, ZoneConfig{Origin: "example"})
	for name, want := range map[string]int{"www.example": 2, "cname-2.example": 6} {
		r := ask(t, z, TLS, name, dns.TypeA, true)
		sigs := 0
		for _, rr := range r.Answer {
			if rr.Header().Rrtype == dns.TypeRRSIG {
				sigs++
			}
		}
		if len(r.Answer) != want || sigs != want/2 {
			t.Errorf("%s: %d answers, %d of them signatures; want %d, half of them", name, len(r.Answer), sigs, want)
		}
	}
}

func TestZoneSizes(t *testing.T) {
	z := testZone(t, ZoneConfig{})
	for name, n := range map[string]int{"txt-1500.x": 1500, "txt-20000.x": 20000, "txt-65000.x": 65000, "txt-99999.x": 65000} {
		r := ask(t, z, TCP, name, dns.TypeTXT, true)
		if got := r.Answer[0].Header().Rdlength; int(got) != n {
			t.Errorf("%s: %d bytes of rdata, want %d", name, got, n)
		}
		r = ask(t, z, UDP, name, dns.TypeTXT, true)
		if !r.Truncated || len(r.Answer) != 0 {
			t.Errorf("%s over UDP: TC %v with %d answers", name, r.Truncated, len(r.Answer))
		}
	}
	if r := ask(t, z, TCP, "a-60000.x", dns.TypeAAAA, false); len(r.Answer) < 2000 {
		t.Errorf("a-60000: %d answers", len(r.Answer))
	}
}

func TestWrongQuestionDiffers(t *testing.T) {
	q := new(dns.Msg)
	q.SetQuestion("x.example.", dns.TypeA)
	wire, _ := q.Pack()
	a := WrongQuestion(testZone(t, ZoneConfig{})).Answer(&Request{Query: wire, Transport: TLS})
	if bytes.Equal(a.Msg[headerLen:len(wire)], wire[headerLen:]) {
		t.Error("the question is the same")
	}
}

func FuzzZone(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("txt-100.example.", dns.TypeTXT)
	q.SetEdns0(1232, true)
	wire, _ := q.Pack()
	f.Add(wire)
	f.Add(wire[:20])
	z, err := NewZone(ZoneConfig{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if a := z.Answer(&Request{Query: msg, Transport: UDP}); len(a.Msg) > maxMessage {
			t.Errorf("a reply of %d bytes", len(a.Msg))
		}
	})
}
