// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// reply returns a reply for dns.example with these records.
func reply(t testing.TB, rcode int, records ...string) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("dns.example.", dns.TypeA)
	m.Response, m.Rcode = true, rcode
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestParseReply(t *testing.T) {
	for _, tc := range []struct {
		rcode   int
		records []string
		want    string
	}{
		{0, []string{"dns.example. 300 IN A 192.0.2.1"}, "[192.0.2.1] 5m0s"},
		{0, []string{"DNS.Example. 300 IN A 192.0.2.1", "dns.example. 60 IN AAAA 2001:db8::1"}, "[192.0.2.1 2001:db8::1] 1m0s"},
		{0, []string{"b.example. 300 IN A 192.0.2.1", "a.example. 200 IN CNAME b.example.", "dns.example. 100 IN CNAME a.example."}, "[192.0.2.1] 1m40s"},
		{0, []string{"dns.example. 100 IN CNAME dns.example.", "dns.example. 300 IN A 192.0.2.1"}, "[192.0.2.1] 5m0s"},
		{0, []string{"other.example. 300 IN A 192.0.2.1"}, "[] "},
		{0, []string{"dns.example. 300 IN A 0.0.0.0", "dns.example. 300 IN A 224.0.0.1", "dns.example. 300 IN TXT x"}, "[] "},
		{0, []string{"dns.example. 300 IN A 192.0.2.1", "dns.example. 300 IN A 192.0.2.1"}, "[192.0.2.1] 5m0s"},
		{0, []string{"dns.example. 300 IN AAAA ::ffff:192.0.2.1"}, "[192.0.2.1] 5m0s"},
		{dns.RcodeNameError, nil, "[] "},
		{dns.RcodeServerFailure, nil, "error: the reply is SERVFAIL"},
		{dns.RcodeRefused, []string{"dns.example. 300 IN A 192.0.2.1"}, "error: the reply is REFUSED"},
	} {
		addrs, ttl, err := parseReply("dns.example", reply(t, tc.rcode, tc.records...))
		got := fmt.Sprint(addrs, " ", ttl)
		if err != nil {
			got = "error: " + err.Error()
		}
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%v: %s, want %s", tc.records, got, tc.want)
		}
	}
	if _, _, err := parseReply("dns.example", []byte("short")); err == nil {
		t.Error("no error for a reply of five bytes")
	}
}

func TestAppendQuery(t *testing.T) {
	msg, err := appendQuery("dns.example", dnsmessage.TypeAAAA)
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		t.Fatal(err)
	}
	if len(m.Question) != 1 || m.Question[0] != (dns.Question{Name: "dns.example.", Qtype: dns.TypeAAAA, Qclass: dns.ClassINET}) || !m.RecursionDesired || m.IsEdns0() == nil {
		t.Errorf("the query is\n%s", &m)
	}
	if len(msg)%128 != 0 {
		t.Errorf("%d bytes, want padding to a multiple of 128", len(msg))
	}
	if _, err := appendQuery(strings.Repeat("a", 300), dnsmessage.TypeA); err == nil {
		t.Error("no error for a name of 300 bytes")
	}
}

// FuzzParseReply: what is accepted are addresses that a server can have.
func FuzzParseReply(f *testing.F) {
	f.Add(reply(f, 0, "dns.example. 300 IN A 192.0.2.1"))
	f.Add(reply(f, 0, "dns.example. 100 IN CNAME a.example.", "a.example. 200 IN AAAA 2001:db8::1"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		addrs, ttl, err := parseReply("dns.example", msg)
		for _, a := range addrs {
			if err != nil || !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || ttl < 0 || ttl > 1<<32*time.Second {
				t.Fatalf("%x: %s, %s, %v", msg, a, ttl, err)
			}
		}
	})
}
