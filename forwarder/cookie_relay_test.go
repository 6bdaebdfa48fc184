// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

const clientCookie = "0123456789abcdef"

// strictClient treats cookies as RFC 7873 §5.3 requires, like c-ares 1.33 and newer: once it has
// a server cookie of an address, it discards replies from there without one.
type strictClient struct {
	at     netip.AddrPort
	server string // its cookie
}

// ask returns the reply to a query, or an error if a reply is discarded.
func (c *strictClient) ask(name string, size uint16) (*dns.Msg, error) {
	edns := true
	for range 4 {
		m := question(name, dns.TypeA)
		if edns {
			m = withCookie(name, clientCookie+c.server)
			m.IsEdns0().SetUDPSize(size)
		}
		r, _, err := (&dns.Client{Timeout: 5 * time.Second, UDPSize: dns.MaxMsgSize}).Exchange(m, c.at.String())
		if err != nil {
			return nil, err
		}
		r.Compress = true
		packed, err := r.Pack()
		if err != nil || edns && len(packed) > int(size) {
			return nil, fmt.Errorf("%d bytes, %w", len(packed), err)
		}
		got := cookieOf(r)
		switch {
		case edns && c.server != "" && len(got) < 32 || got != "" && !strings.HasPrefix(got, clientCookie):
			return nil, fmt.Errorf("discarded: a reply with the cookie %q:\n%v", got, r)
		case len(got) >= 32:
			c.server = got[len(clientCookie):]
		}
		switch {
		case r.Rcode == dns.RcodeBadCookie:
			continue
		case r.Rcode == dns.RcodeFormatError && edns && r.IsEdns0() == nil:
			edns = false
			continue
		}
		return r, nil
	}
	return nil, fmt.Errorf("%s: never answered", name)
}

// relayedServer is a nameserver for TestStrictClient.
type relayedServer struct {
	cookie, required, opt, first bool // it sends cookies, and requires them; it sends an OPT, as the first additional record
	rejects                      int  // rcode for queries with EDNS
}

const serverCookie = "4242424242424242"

func (s relayedServer) Answer(r *dnstest.Request) dnstest.Answer {
	q := new(dns.Msg)
	if err := q.Unpack(r.Query); err != nil {
		return dnstest.Answer{}
	}
	m := new(dns.Msg).SetReply(q)
	asked := cookieOf(q)
	switch {
	case q.IsEdns0() != nil && s.rejects != 0:
		m.Rcode = s.rejects
	case s.required && asked != "" && !strings.HasSuffix(asked, serverCookie):
		m.Rcode = dns.RcodeBadCookie
	default:
		for range 30 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}})
		}
	}
	m.Compress = true
	if q.IsEdns0() != nil && (s.opt || s.cookie) {
		m.SetEdns0(4096, false)
		if s.first {
			m.Extra = append(m.Extra, &dns.A{Hdr: dns.RR_Header{Name: "ns.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 2}})
		}
	}
	if s.cookie && asked != "" {
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: asked[:16] + serverCookie}}
	}
	msg, err := m.Pack()
	if err != nil {
		return dnstest.Answer{}
	}
	return dnstest.Answer{Msg: msg}
}

// startMixed starts a forwarder that relays names below "relayed.", as local ones or by a rule,
// answers nx itself, and forwards others.
func startMixed(t *testing.T, action Action, origin netip.AddrPort, observe func(Event)) netip.AddrPort {
	t.Helper()
	cfg := relayConfig(t, origin)
	cfg.Observe = observe
	cfg.Local = func(Origin) Nameserver { return cfg.Nameserver }
	cfg.Route = func(q *wire.Query, _ *Origin) Route {
		switch {
		case bytes.HasSuffix(q.Name, []byte("\x07relayed\x00")):
			return Route{Action: action, Rule: 1}
		case bytes.HasPrefix(q.Name, []byte("\x02nx")):
			return Route{Action: NXDomain, Rule: 2}
		}
		return Route{}
	}
	return start(t, cfg, "127.0.0.1:0")
}

// TestStrictClient: a client that discards replies without an expected cookie gets answers to
// forwarded names, local ones and relayed ones in every order, whatever the nameserver makes of
// cookies and EDNS.
func TestStrictClient(t *testing.T) {
	for what, s := range map[string]relayedServer{
		"no EDNS":         {},
		"no cookies":      {opt: true},
		"OPT not last":    {opt: true, first: true},
		"cookies":         {cookie: true},
		"needs cookies":   {cookie: true, required: true},
		"EDNS is FORMERR": {rejects: dns.RcodeFormatError},
		"EDNS is NOTIMP":  {rejects: dns.RcodeNotImplemented},
	} {
		for _, action := range []Action{Local, Plain} {
			at := startMixed(t, action, nameserver(t, s), nil)
			for _, first := range []string{"a.relayed", "a.example", "nx.example"} {
				c := &strictClient{at: at}
				for _, name := range []string{first, "b.relayed", "c.relayed", "a.example", "d.relayed", "nx.example", "e.relayed", "a.example"} {
					r, err := c.ask(name, 1232)
					if err != nil {
						t.Errorf("%s, %s: %s: %v", what, action, name, err)
						break
					}
					if want := strings.HasPrefix(name, "nx"); (r.Rcode == dns.RcodeNameError) != want || (len(r.Answer) == 0) != want || r.Truncated {
						t.Errorf("%s, %s: %s:\n%v", what, action, name, r)
					}
				}
			}
		}
	}
}

// TestRelayedCookieLength: a relayed reply that fits the client's size only without a cookie is
// truncated, and complete over TCP.
func TestRelayedCookieLength(t *testing.T) {
	at := startMixed(t, Local, nameserver(t, relayedServer{opt: true}), nil)
	m := withCookie("a.relayed", clientCookie)
	whole := ask(t, "tcp", at, m)
	if len(whole.Answer) != 30 || cookieOf(whole) == "" {
		t.Fatalf("over TCP:\n%v", whole)
	}
	whole.Compress = true
	c := &strictClient{at: at}
	for size := uint16(whole.Len() - 40); int(size) <= whole.Len(); size++ {
		r, err := c.ask("a.relayed", size)
		if err != nil || r.Truncated != (int(size) < whole.Len()) || r.Truncated != (len(r.Answer) == 0) {
			t.Errorf("size %d of %d: %v\n%v", size, whole.Len(), err, r)
		}
	}
}

// TestForgedWithoutCookie: a reply without the cookie that a nameserver sends may be forged. It
// gets none of Sotto, except from a resolver on this machine.
func TestForgedWithoutCookie(t *testing.T) {
	for _, action := range []Action{Plain, Local} {
		var forged atomic.Bool
		at := startMixed(t, action, nameserver(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
			return relayedServer{opt: true, cookie: !forged.Load()}.Answer(r)
		})), nil)
		c := &strictClient{at: at}
		if _, err := c.ask("a.relayed", 1232); err != nil || c.server != serverCookie {
			t.Fatalf("%v, the server cookie %q", err, c.server)
		}
		forged.Store(true)
		if _, err := c.ask("b.relayed", 1232); (err != nil) != (action == Plain) {
			t.Errorf("%s: %v", action, err)
		}
	}
}

// TestRelayedUnchanged: a reply to a query that is signed, is no lookup, or has no cookie is passed
// on unchanged.
func TestRelayedUnchanged(t *testing.T) {
	replies := make(chan []byte, 1)
	at := startMixed(t, Local, nameserver(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := relayedServer{opt: true}.Answer(r)
		replies <- bytes.Clone(a.Msg)
		return a
	})), nil)
	signed, _, err := dns.TsigGenerate(withCookie("a.relayed", clientCookie).SetTsig("key.", dns.HmacSHA256, 300, time.Now().Unix()), "c2VjcmV0", "", false)
	if err != nil {
		t.Fatal(err)
	}
	queries := map[string][]byte{"signed": signed}
	for what, m := range map[string]*dns.Msg{"NOTIFY": withCookie("a.relayed", clientCookie), "no cookie": withEDNS("a.relayed", dns.TypeA), "no EDNS": question("a.relayed", dns.TypeA)} {
		if what == "NOTIFY" {
			m.Opcode = dns.OpcodeNotify
		}
		if queries[what], err = m.Pack(); err != nil {
			t.Fatal(err)
		}
	}
	for what, query := range queries {
		for _, proto := range []string{"udp", "tcp"} {
			got := askRaw(t, proto, at, query)
			if want := <-replies; !bytes.Equal(got[2:], want[2:]) {
				t.Errorf("%s over %s: %s, want %s", what, proto, hex.EncodeToString(got), hex.EncodeToString(want))
			}
		}
	}
}

// TestCookieServers: nameservers are remembered for a time, and only a number of them.
func TestCookieServers(t *testing.T) {
	var c cookieServers
	now := time.Now()
	at := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), 53)
	}
	c.add(at(0), now)
	if !c.has(at(0), now) || c.has(at(1), now) || c.has(at(0), now.Add(cookieServerTime)) {
		t.Error("the wrong ones are remembered")
	}
	for n := range 2 * maxCookieServers {
		c.add(at(n), now)
	}
	if len(c.until) != maxCookieServers || !c.has(at(2*maxCookieServers-1), now) {
		t.Errorf("%d are remembered", len(c.until))
	}
}
