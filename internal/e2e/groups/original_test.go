// SPDX-License-Identifier: Apache-2.0

package groups

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/internal/capture"
	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/status"
)

// servePlain serves plain DNS at the address of a nameserver, which designates a server over TLS at
// another address. It must get no other query.
func (w world) servePlain(nameserver, designated string) {
	w.T.Helper()
	cfg := dnstest.Config{Handler: dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		var q dns.Msg
		if err := q.Unpack(r.Query); err != nil || q.Question[0].Name != "_dns.resolver.arpa." || q.Question[0].Qtype != dns.TypeSVCB {
			w.T.Errorf("a query in plain DNS: %v", q.String())
		}
		m := new(dns.Msg)
		m.SetReply(&q)
		at := netip.MustParseAddrPort(designated)
		rr, err := dns.NewRR(`_dns.resolver.arpa. 300 SVCB 1 doh.example. alpn="h2" dohpath="/q{?dns}"`)
		if err == nil {
			m.Answer = append(m.Answer, rr)
			rr, err = dns.NewRR(fmt.Sprintf(`_dns.resolver.arpa. 300 SVCB 2 dot.example. alpn="dot" port=%d ipv4hint=%s`, at.Port(), at.Addr()))
		}
		if err != nil {
			w.T.Error(err)
		}
		m.Answer = append(m.Answer, rr)
		msg, err := m.Pack()
		if err != nil {
			w.T.Error(err)
		}
		return dnstest.Answer{Msg: msg}
	})}
	err := w.other.Do(func() error {
		l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(netip.MustParseAddr(nameserver), 53))
		cfg.TCP, cfg.UDP = []net.Listener{l}, []net.PacketConn{pc}
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	e2e.Serve(w.T, cfg)
}

// Nameservers of TestOriginal.
const (
	cloudflare6 = "2606:4700:4700::1111"

	byAddress = "192.0.2.10" // a nameserver with a certificate for its address
	byDDR     = "192.0.2.53"
	byUnbound = "192.0.2.60" // unbound, which designates itself
	neither   = "198.51.100.53"
)

// newOriginalWorld makes a world with these nameservers and their servers over TLS. The answer of
// each has its own address.
func newOriginalWorld(t *testing.T) world {
	t.Helper()
	w := newWorld(t, true, "1.1.1.1", "8.8.8.8", "9.9.9.9", cloudflare6, byAddress, byDDR, "192.0.2.11", byUnbound, neither)
	for at, s := range map[string]struct {
		answer string
		opts   dnstest.CertOptions
	}{
		"1.1.1.1:853":      {"203.0.113.1", dnstest.CertOptions{Names: []string{"one.one.one.one"}}},
		"8.8.8.8:853":      {"203.0.113.8", dnstest.CertOptions{Names: []string{"dns.google"}}},
		"9.9.9.9:853":      {"203.0.113.9", dnstest.CertOptions{Names: []string{"dns.quad9.net"}}},
		byAddress + ":853": {"203.0.113.10", dnstest.CertOptions{IPs: []netip.Addr{netip.MustParseAddr(byAddress)}}},
		"192.0.2.11:8853":  {"203.0.113.53", dnstest.CertOptions{IPs: []netip.Addr{netip.MustParseAddr(byDDR)}}},
		neither + ":853":   {"203.0.113.66", dnstest.CertOptions{Names: []string{"other.example"}}},
	} {
		w.serveTLS(at, s.answer, s.opts)
	}
	if netlab.HasIPv6() {
		w.serveTLS("["+cloudflare6+"]:853", "203.0.113.6", dnstest.CertOptions{Names: []string{"one.one.one.one"}})
	}
	w.servePlain(byDDR, "192.0.2.11:8853")
	w.serveUnbound("203.0.113.60")
	return w
}

// originalConfig is the configuration of TestOriginal.
const originalConfig = `upstream = [%q]
ca-file = %q
cgroups = [%q]
control = %q
[[group]]
name = "chosen"
upstream = ["original"]
original-discovery = "ddr"
ca-file = %q
rebinding = "refuse"
dnssec = "validate"
negative-trust-anchors = ["example"]
[[rule]]
name = "."
use = "chosen"
`

// TestOriginal: clients are answered by the nameserver that they asked: public resolvers, one with a
// certificate for its address, and one that designates a server. The default group answers those
// that asked a nameserver without any. The reply comes from the address that was asked, the caches
// do not mix, and status, explain and trace show the server. All answers are validated, except below
// a negative trust anchor. The only query in plain DNS is the one for designated servers.
func TestOriginal(t *testing.T) {
	w := newOriginalWorld(t)
	w.Watch() // of the LAN
	c, err := capture.Start(w.other.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}

	g := w.Cgroup("workload")
	dir := t.TempDir()
	file, control := filepath.Join(dir, "sotto.toml"), filepath.Join(dir, "control.sock")
	e2e.WriteFile(t, file, fmt.Sprintf(originalConfig, e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile, g.Path, control, w.CAFile))
	sealed := w.Start("msg=sealed", "run", "--config", file)
	t.Cleanup(func() { w.Stop(sealed) })
	trace := w.Start("", "trace", "--json", "--control", control)
	w.Until("the trace to start", func() bool {
		w.Dig(w.Host, g, "@1.1.1.1", "start.example")
		return strings.Contains(trace.Log(), "start.example.")
	})
	servers := map[string]string{ // by nameserver: the answer, and the server
		"1.1.1.1": "203.0.113.1 1.1.1.1:853#one.one.one.one", "8.8.8.8": "203.0.113.8 8.8.8.8:853#dns.google",
		"9.9.9.9": "203.0.113.9 9.9.9.9:853#dns.quad9.net", byAddress: "203.0.113.10 " + byAddress + ":853",
		byUnbound: "203.0.113.60 " + byUnbound + ":853#dot.example",
		byDDR:     "203.0.113.53 192.0.2.11:8853#dot.example", neither: e2e.Sealed4 + " " + e2e.UpstreamAddr + "#" + e2e.UpstreamName,
	}
	if netlab.HasIPv6() {
		servers[cloudflare6] = "203.0.113.6 [" + cloudflare6 + "]:853#one.one.one.one"
	}
	w.discover(g, control, servers)
	for range 2 { // the second time from the cache
		for nameserver, want := range servers {
			answer, _, _ := strings.Cut(want, " ")
			out := w.Dig(w.Host, g, "@"+nameserver, "www.example")
			if !strings.Contains(out, answer) || !strings.Contains(out, "SERVER: "+nameserver+"#53") {
				t.Errorf("@%s, want %s:\n%s", nameserver, answer, out)
			}
		}
	}
	for _, nameserver := range []string{"9.9.9.9", byDDR, neither} {
		if out := w.Dig(w.Host, g, "@"+nameserver, "www.unsigned"); !strings.Contains(out, "status: SERVFAIL") || !strings.Contains(out, "(. DNSKEY: ") {
			t.Errorf("a name that cannot be validated, @%s:\n%s", nameserver, out)
		}
	}
	w.checkOriginal(control, trace, servers)
	w.execOriginal()
	packets, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	plain := capture.Plain(packets)
	for _, p := range plain {
		if !p.Contains("_dns.resolver.arpa.") {
			t.Errorf("in plain DNS: %v", p)
		}
	}
	if len(plain) == 0 {
		t.Error("no query for designated servers")
	}
}

// execOriginal checks that a command is answered by the nameserver that it asks, and that without a
// fallback other queries fail with the reason.
func (w world) execOriginal() {
	w.T.Helper()
	for nameserver, want := range map[string]string{
		"9.9.9.9": "203.0.113.9", byAddress: "203.0.113.10",
		neither: "no group is configured in its place (original-fallback)",
	} {
		out, errs, _ := w.Sotto("exec", "--upstream", "original", "--ca-file", w.CAFile, "--", labtest.NeedTool(w.T, "dig"), "+tries=1", "+timeout=20", "@"+nameserver, "www.example")
		if !strings.Contains(out, want) {
			w.T.Errorf("exec: @%s, want %s:\n%s%s", nameserver, want, out, errs)
		}
	}
}

// nameservers returns what the status says about nameservers, by address.
func (w world) nameservers(control string) map[string]status.Nameserver {
	w.T.Helper()
	text, _, _ := w.Sotto("status", "--json", "--control", control)
	var s status.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		w.T.Fatalf("%v: %s", err, text)
	}
	seen := map[string]status.Nameserver{}
	for _, g := range s.Groups {
		if g.Name == "chosen" && g.Policy != "original" {
			w.T.Errorf("policy %q", g.Policy)
		}
		for _, n := range g.Nameservers {
			seen[n.Nameserver.Addr().String()] = n
		}
	}
	return seen
}

// discover asks all nameservers until it is known what they offer. On a busy machine that may take
// longer than a query waits, and the fallback answers.
func (w world) discover(g *netlab.Cgroup, control string, servers map[string]string) {
	w.T.Helper()
	n := 0
	w.Until("the nameservers to be known", func() bool {
		n++
		for nameserver := range servers {
			w.Dig(w.Host, g, "@"+nameserver, fmt.Sprintf("discover%d.example", n))
		}
		seen, known := w.nameservers(control), 0
		for nameserver := range servers {
			if s := seen[nameserver].State; s == "encrypted" || s == "fallback" {
				known++
			}
		}
		return known == len(servers)
	})
}

// checkOriginal checks what status, explain and trace say about nameservers.
func (w world) checkOriginal(control string, trace *e2e.Process, servers map[string]string) {
	t := w.T
	t.Helper()
	seen := w.nameservers(control)
	people, _, _ := w.Sotto("status", "--control", control)
	for nameserver, want := range servers {
		_, server, _ := strings.Cut(want, " ")
		n, upgraded := seen[nameserver], server != e2e.UpstreamAddr+"#"+e2e.UpstreamName
		if n.State != map[bool]string{true: "encrypted", false: "fallback"}[upgraded] || upgraded && n.Server != server || n.Queries == 0 || (n.Error != "") == upgraded {
			t.Errorf("%s: %+v", nameserver, n)
		}
		if !strings.Contains(people, "  "+nameserver+" ") {
			t.Errorf("status does not show %s:\n%s", nameserver, people)
		}
		explained, _, _ := w.Sotto("explain", "www.example", "--nameserver", nameserver, "--control", control)
		if upgraded && !strings.Contains(explained, server+", ") || !upgraded && !strings.Contains(explained, "the query goes to the group default: ") {
			t.Errorf("explain of %s:\n%s", nameserver, explained)
		}
		w.Until("the trace of "+nameserver, func() bool {
			for line := range strings.Lines(trace.Log()) {
				if strings.Contains(line, `"nameserver":"`+netip.AddrPortFrom(netip.MustParseAddr(nameserver), 53).String()+`"`) && strings.Contains(line, `"name":"www.example."`) && strings.Contains(line, `"source":"upstream"`) {
					if !strings.Contains(line, `"server":"`+server+`"`) {
						t.Errorf("trace of %s: %s", nameserver, line)
					}
					return true
				}
			}
			return false
		})
	}
}
