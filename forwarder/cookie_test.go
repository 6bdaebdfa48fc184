// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// withCookie returns a query with that cookie, in hexadecimal.
func withCookie(name, cookie string) *dns.Msg {
	m := withEDNS(name, dns.TypeA)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie})
	return m
}

// cookieOf returns the cookie in a message, or "".
func cookieOf(m *dns.Msg) string {
	if o := m.IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if c, ok := opt.(*dns.EDNS0_COOKIE); ok {
				return c.Cookie
			}
		}
	}
	return ""
}

// TestCookies: every reply to a query with a cookie has the client's cookie and a server
// cookie, whatever server cookie the query has: from this server, or from the original
// destination before the seal. Others have none.
func TestCookies(t *testing.T) {
	const client = "0123456789abcdef"
	at := start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t), Route: byLabel(localRoutes(t))}, "127.0.0.1:0")
	names := []string{"a.example", "b.example", "nxdomain.example", "resolver.arpa", "_dns.resolver.arpa"} // hits, misses, bypass names
	for label := range localRoutes(t) {
		names = append(names, label+".example")
	}
	own := cookieOf(ask(t, "udp", at, withCookie("a.example", client)))
	for _, proto := range []string{"udp", "tcp"} {
		for _, sent := range []string{client, own, client + strings.Repeat("42", 16), client + strings.Repeat("42", 8), client + strings.Repeat("42", 32)} {
			for _, name := range names {
				r := ask(t, proto, at, withCookie(name, sent))
				got := cookieOf(r)
				if len(got) != 48 || !strings.HasPrefix(got, client+"01000000") || r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeBadCookie {
					t.Errorf("%s over %s with %s: %s, %q", name, proto, sent, dns.RcodeToString[r.Rcode], got)
				}
			}
		}
		for _, m := range []*dns.Msg{withEDNS("a.example", dns.TypeA), question("a.example", dns.TypeA)} {
			if r := ask(t, proto, at, m); cookieOf(r) != "" || (r.IsEdns0() != nil) != (m.IsEdns0() != nil) {
				t.Errorf("a reply with a cookie to a query without:\n%v", r)
			}
		}
		for _, bad := range []string{"", "01", client[2:], client + "42", client + strings.Repeat("42", 33)} {
			m := withCookie("a.example", bad)
			if r := ask(t, proto, at, m); r.Rcode != dns.RcodeFormatError || cookieOf(r) != "" {
				t.Errorf("cookie %q: %s, want FORMERR\n%v", bad, dns.RcodeToString[r.Rcode], r)
			}
		}
		rd := withCookie("a.example", client)
		rd.RecursionDesired = false
		if r := ask(t, proto, at, rd); r.Rcode != dns.RcodeRefused || len(cookieOf(r)) != 48 {
			t.Errorf("a refusal without a cookie:\n%v", r)
		}
	}
}

// TestCookieQueries: a query without a question asks for a server cookie, or whether one is
// valid (RFC 7873 §5.4).
func TestCookieQueries(t *testing.T) {
	const client = "0123456789abcdef"
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0")
	for _, proto := range []string{"udp", "tcp"} {
		empty := func(cookie string) *dns.Msg {
			m := withCookie("a.example", cookie)
			m.Question = nil
			return m
		}
		r := ask(t, proto, at, empty(client))
		own := cookieOf(r)
		if r.Rcode != dns.RcodeSuccess || len(own) != 48 || len(r.Question)+len(r.Answer)+len(r.Ns) != 0 {
			t.Errorf("%s:\n%v", proto, r)
		}
		if r := ask(t, proto, at, empty(own)); r.Rcode != dns.RcodeSuccess || len(cookieOf(r)) != 48 {
			t.Errorf("%s: a valid cookie:\n%v", proto, r)
		}
		if r := ask(t, proto, at, empty(client+strings.Repeat("42", 16))); r.Rcode != dns.RcodeBadCookie || len(cookieOf(r)) != 48 {
			t.Errorf("%s: another server's cookie: %s\n%v", proto, dns.RcodeToString[r.Rcode], r)
		}
		m := withEDNS("a.example", dns.TypeA)
		m.Question = nil
		if r := ask(t, proto, at, m); r.Rcode != dns.RcodeFormatError {
			t.Errorf("%s: no question and no cookie:\n%v", proto, r)
		}
	}
}

// TestCookieClients: dig and kdig accept the cookies, and dig sends back the one it got.
func TestCookieClients(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	for _, tcp := range []string{"+notcp", "+tcp"} {
		for _, args := range [][]string{
			{"dig", "+cookie", "+noall", "+comments", "a.example"},
			{"dig", "+cookie=0123456789abcdef4242424242424242", "+noall", "+comments", "a.example"},
			{"dig", "+header-only", "+cookie", "+noall", "+comments"},
			{"kdig", "+cookie", "a.example"},
			{"kdig", "+cookie=0123456789abcdef4242424242424242", "a.example"},
		} {
			args = append(args, tcp, "+retry=0", "+time=5", "@"+at.Addr().String(), "-p", fmt.Sprint(at.Port()))
			out, err := exec.Command(needTool(t, args[0]), args[1:]...).CombinedOutput()
			text := string(out)
			good := strings.Contains(text, "(good)") // dig; without the brackets, three digits of a cookie are "bad"
			if args[0] == "kdig" {
				good = strings.Contains(text, "COOKIE")
			}
			if err != nil || !good || !strings.Contains(text, "NOERROR") || strings.Contains(text, "WARNING") || strings.Contains(text, "(bad)") {
				t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, text)
			}
		}
	}
}

// TestCookieNamed: BIND learned a server cookie from its forwarder. When the seal answers in
// its place, BIND accepts the replies and does not ask again over TCP.
func TestCookieNamed(t *testing.T) {
	cookieServer, stop := startCookieServer(t)
	lookup, named := startNamed(t, cookieServer)
	lookup("before.example")
	lookup("before2.example")
	stop()
	var c events
	start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t), Observe: c.add}, cookieServer.String())
	for i := range 5 {
		lookup(fmt.Sprintf("after%d.example", i))
	}
	c.check(t, 5, named)
}

// TestCookieNamedRelayed: BIND also accepts what a nameserver without cookies, or without EDNS,
// replies to relayed queries, after Sotto has sent it a cookie.
func TestCookieNamedRelayed(t *testing.T) {
	for _, s := range []relayedServer{{}, {opt: true}} {
		var c events
		at := startMixed(t, Local, nameserver(t, s), c.add)
		lookup, named := startNamed(t, at)
		for i := range 4 {
			lookup(fmt.Sprintf("n%d.example", i))
			lookup(fmt.Sprintf("n%d.relayed", i))
		}
		c.check(t, 8, named)
	}
}

// events are the queries of BIND for addresses, in the order of their replies.
type events struct {
	mu   sync.Mutex
	list []string
}

func (c *events) add(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name := wire.Name(e.Name); e.Type == dns.TypeA && (strings.HasSuffix(name, "example.") || strings.HasSuffix(name, "relayed.")) {
		c.list = append(c.list, fmt.Sprintf("%s tcp=%v", name, e.TCP))
	}
}

// check checks that BIND asked once for each of its lookups, over UDP.
func (c *events) check(t *testing.T, lookups int, named *servertest.LogBuffer) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) != lookups || strings.Contains(strings.Join(c.list, " "), "tcp=true") {
		t.Errorf("%d queries for %d names: %v", len(c.list), lookups, c.list)
	}
	if strings.Contains(named.String(), "missing expected cookie") {
		t.Error("named misses the cookie")
	}
}

// startNamed starts BIND with that forwarder, and returns a function that asks it for the
// addresses of a name.
func startNamed(t *testing.T, forwarder netip.AddrPort) (lookup func(name string), out *servertest.LogBuffer) {
	t.Helper()
	named := needTool(t, "named")
	config := filepath.Join(t.TempDir(), "named.conf")
	listen := freeUDPPort(t)
	text := fmt.Sprintf(`options {
	directory "%s"; pid-file none; session-keyfile none;
	listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; };
	forwarders { %s port %d; }; forward only; dnssec-validation no; qname-minimization off;
};
controls {};
`, filepath.Dir(config), listen, forwarder.Addr(), forwarder.Port())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out = new(servertest.LogBuffer)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, named, "-g", "-n", "1", "-c", config)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("output of named:\n%s", out.String())
		}
	})
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(listen))
	return func(name string) {
		t.Helper()
		c := dns.Client{Timeout: 5 * time.Second}
		var r *dns.Msg
		var err error
		for range 20 { // until named listens
			if r, _, err = c.Exchange(question(name, dns.TypeA), to.String()); err == nil {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		if err != nil || r.Rcode != dns.RcodeSuccess || len(r.Answer) == 0 {
			t.Fatalf("%s: %v, %v", name, r, err)
		}
	}, out
}

// startCookieServer runs a plain DNS server with server cookies of its own until stop is
// called.
func startCookieServer(t *testing.T) (at netip.AddrPort, stop func()) {
	t.Helper()
	l, pc, err := dnstest.ListenPlain(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 1)}}
		}
		if c := cookieOf(q); c != "" {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: c[:16] + strings.Repeat("42", 16)}}
		}
		_ = w.WriteMsg(m)
	})
	servers := []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}}
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() { _ = s.ActivateAndServe() })
	}
	stop = sync.OnceFunc(func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
		wg.Wait()
	})
	t.Cleanup(stop)
	return netip.MustParseAddrPort(pc.LocalAddr().String()), stop
}

func freeUDPPort(t *testing.T) int {
	t.Helper()
	l, pc, err := dnstest.ListenPlain(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer pc.Close()
	return pc.LocalAddr().(*net.UDPAddr).Port
}

// needTool returns the path of a program.
func needTool(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	servertest.Skip(t, "needs the program "+name)
	return ""
}
