// SPDX-License-Identifier: Apache-2.0

package groups

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/dns64"
	"sotto/forwarder/rebind"
	"sotto/forwarder/wire"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// zone is what the authoritative server of the comparisons has.
const zone = `$TTL 300
@ SOA ns admin 1 3600 600 86400 120
@ NS ns
ns A 9.9.9.1
v4 3600 A 9.9.9.9
v4 3600 A 8.8.8.8
short 30 A 9.9.9.9
both A 9.9.9.9
both AAAA 2001:db8::9
six AAAA 2001:db8::6
mapped A 9.9.9.9
mapped AAAA ::ffff:9.9.9.9
mixed A 9.9.9.9
mixed AAAA ::ffff:9.9.9.9
mixed AAAA 2001:db8::9
alias 77 CNAME v4
alias2 77 CNAME alias
alias6 CNAME both
dead CNAME none
deadtext CNAME text
text TXT x
private A 192.168.1.1
ten A 10.1.2.3
tens A 10.1.2.3
tens A 9.9.9.9
loop A 127.0.0.1
link A 169.254.169.254
null A 0.0.0.0
cgn A 100.64.0.1
pub A 172.32.0.1
*.wild A 9.9.9.8
tree DNAME real
www.real A 9.9.9.7
ula AAAA fd00::1
ll AAAA fe80::1
one AAAA ::1
compat AAAA ::10.0.0.1
nat64 AAAA 64:ff9b::a00:1
mail MX 10 v4
$GENERATE 1-40 gen$ A 9.9.8.$
`

const reverseZone = `$TTL 300
@ SOA ns.example. admin.example. 1 3600 600 86400 120
@ NS ns.example.
9.9.9.9 PTR v4.example.
8.8.8.8 CNAME 8.sub.8.8.8
8.sub.8.8.8 PTR v4.example.
`

// compared are servers of the same zones: one without DNS64 and protection, and those that Sotto is
// compared with.
type compared struct {
	t    *testing.T
	host *netlab.Host
	dir  string
}

// newCompared starts the authoritative server.
func newCompared(t *testing.T) compared {
	t.Helper()
	w := labtest.New(t)
	h, err := w.Host("servers")
	if err != nil {
		t.Fatal(err)
	}
	c := compared{t, h, t.TempDir()}
	e2e.WriteFile(t, filepath.Join(c.dir, "zone"), zone)
	e2e.WriteFile(t, filepath.Join(c.dir, "reverse"), reverseZone)
	c.named("auth", 5301, `recursion no; `, fmt.Sprintf("zone example { type primary; file %q; };\nzone in-addr.arpa { type primary; file %q; };\n", c.dir+"/zone", c.dir+"/reverse"))
	return c
}

// run starts a server and waits until it answers on a port.
func (c compared) run(port int, name string, args ...string) {
	c.t.Helper()
	cmd := c.host.Command(context.Background(), nil, labtest.NeedTool(c.t, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out labtest.LogBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }() // its status is the signal's
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if c.t.Failed() {
			c.t.Logf("%s wrote:\n%s", name, out.String())
		}
	})
	e2e.Eventually(c.t, name+" to answer", func() bool {
		_, err := c.ask(port, "ns.example.", dns.TypeA)
		return err == nil
	})
}

// named starts BIND.
func (c compared) named(name string, port int, options, rest string) {
	c.t.Helper()
	file := filepath.Join(c.dir, name+".conf")
	e2e.WriteFile(c.t, file, fmt.Sprintf("options { directory %q; pid-file none; session-keyfile none; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; dnssec-validation no; empty-zones-enable no; %s };\ncontrols { };\n%s",
		c.dir, port, options, rest))
	c.run(port, "named", "-g", "-c", file, "-n", "1")
}

// unbound starts unbound as a resolver that asks the authoritative server.
func (c compared) unbound(name string, port int, server string) {
	c.t.Helper()
	file := filepath.Join(c.dir, name+".conf")
	e2e.WriteFile(c.t, file, fmt.Sprintf("server:\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n directory: %q\n interface: 127.0.0.1\n port: %d\n do-not-query-localhost: no\n use-syslog: no\n num-threads: 1\n"+
		" local-zone: \"8.b.d.0.1.0.0.2.ip6.arpa.\" nodefault\n%sstub-zone:\n name: example\n stub-addr: 127.0.0.1@5301\nstub-zone:\n name: in-addr.arpa\n stub-addr: 127.0.0.1@5301\nremote-control:\n control-enable: no\n", c.dir, port, server))
	c.run(port, "unbound", "-d", "-c", file)
}

// ask sends a query over TCP to a server.
func (c compared) ask(port int, name string, typ uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	return c.send(port, m)
}

func (c compared) send(port int, m *dns.Msg) (r *dns.Msg, err error) {
	var nc net.Conn
	err = c.host.Do(func() (err error) {
		nc, err = net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	conn := &dns.Conn{Conn: nc}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := conn.WriteMsg(m); err != nil {
		return nil, err
	}
	return conn.ReadMsg()
}

// plain is a server as the upstream of an exchanger.
type plain struct {
	c    compared
	port int
}

func (p plain) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	r, err := p.c.send(p.port, &m)
	if err != nil {
		return nil, err
	}
	r.Id = 0
	return r.Pack()
}

// through sends a query through an exchanger.
func through(t *testing.T, x interface {
	Exchange(context.Context, []byte, time.Time) ([]byte, error)
}, name string, typ uint16) *dns.Msg {
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
	reply, err := x.Exchange(t.Context(), wire.AppendQuery(nil, &q), time.Now().Add(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var out dns.Msg
	if err := out.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	return &out
}

// gist returns the code and the records of an answer, sorted, and without TTLs unless ttl is set.
func gist(m *dns.Msg, ttl bool) string {
	var list []string
	for _, rr := range m.Answer {
		rr.Header().Name = strings.ToLower(rr.Header().Name)
		if !ttl {
			rr.Header().Ttl = 0
		}
		list = append(list, strings.Join(strings.Fields(rr.String()), " "))
	}
	slices.Sort(list)
	return dns.RcodeToString[m.Rcode] + " " + strings.Join(list, "|")
}

// names returns the names of the zone.
func names() (list []string) {
	for line := range strings.Lines(zone) {
		if f := strings.Fields(line); len(f) > 2 && f[0] != "@" && f[0] != "tree" && f[0][0] != '$' && f[0][0] != '*' && !slices.Contains(list, f[0]+".example.") {
			list = append(list, f[0]+".example.")
		}
	}
	for i := 1; i <= 40; i++ {
		list = append(list, fmt.Sprintf("gen%d.example.", i))
	}
	return append(list, "x.wild.example.", "www.tree.example.", "none.example.", "example.")
}

// TestCompareDNS64: DNS64 gives the answers of unbound and of BIND.
func TestCompareDNS64(t *testing.T) {
	const prefix = "2001:db8:64::/96"
	c := newCompared(t)
	c.unbound("plain", 5302, "")
	c.unbound("dns64", 5303, " module-config: \"dns64 iterator\"\n dns64-prefix: "+prefix+"\n")
	forward := "type forward; forward only; forwarders { 127.0.0.1 port 5301; }; };\n"
	c.named("dns64", 5304, "recursion yes; allow-recursion { any; }; dns64 "+prefix+" { clients { any; }; };", "zone example { "+forward+"zone in-addr.arpa { "+forward)
	x := dns64.New(plain{c, 5302}, netip.MustParsePrefix(prefix))
	type query struct {
		name string
		typ  uint16
	}
	var queries []query
	for _, name := range names() {
		queries = append(queries, query{name, dns.TypeAAAA}, query{name, dns.TypeA}, query{name, dns.TypeMX})
	}
	for _, a := range []string{"9.9.9.9", "8.8.8.8", "9.9.8.1"} {
		name, err := dns.ReverseAddr(dns64.Embed(netip.MustParsePrefix(prefix), netip.MustParseAddr(a)).String())
		if err != nil {
			t.Fatal(err)
		}
		queries = append(queries, query{name, dns.TypePTR})
	}
	compared, sameTTL := 0, 0
	for _, q := range queries {
		ours := through(t, x, q.name, q.typ)
		for _, server := range []struct {
			name string
			port int
		}{{"unbound", 5303}, {"BIND", 5304}} {
			theirs, err := c.ask(server.port, q.name, q.typ)
			if err != nil {
				t.Fatal(err)
			}
			got, want := gist(ours.Copy(), false), gist(theirs.Copy(), false)
			if why := differs[server.name+" "+q.name]; why == "" && q.typ == dns.TypePTR {
				// unbound renames the records, BIND and Sotto add a CNAME.
				got, want = targets(ours), targets(theirs)
				if got != want {
					t.Errorf("%s %s: %s, and %s of %s", q.name, dns.TypeToString[q.typ], got, want, server.name)
				}
			} else if got != want && why == "" {
				t.Errorf("%s %s: %s, and %s of %s", q.name, dns.TypeToString[q.typ], got, want, server.name)
			}
			compared++
			if gist(ours.Copy(), true) == gist(theirs.Copy(), true) {
				sameTTL++
			}
		}
	}
	t.Logf("%d answers compared, %d of them with the same TTLs", compared, sameTTL)
}

// differs are answers that differ, and why.
var differs = map[string]string{
	"unbound mapped.example.": "unbound does not exclude ::ffff:0:0/96 (RFC 6147 §5.1.4)",
	"unbound mixed.example.":  "unbound does not exclude ::ffff:0:0/96 (RFC 6147 §5.1.4)",
}

// targets returns the code and the names that PTR records of an answer point to.
func targets(m *dns.Msg) string {
	var list []string
	for _, rr := range m.Answer {
		if p, ok := rr.(*dns.PTR); ok {
			list = append(list, p.Ptr)
		}
	}
	slices.Sort(list)
	return dns.RcodeToString[m.Rcode] + " " + strings.Join(list, "|")
}

// TestCompareRebinding: an address that unbound removes as private is refused, and no other.
func TestCompareRebinding(t *testing.T) {
	c := newCompared(t)
	c.unbound("plain", 5302, "")
	private := ""
	for _, p := range []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "::/96", "fd00::/8", "fe80::/10", "::ffff:0:0/96", "64:ff9b::a00:0/104"} {
		private += " private-address: " + p + "\n"
	}
	c.unbound("private", 5303, private)
	x := rebind.New(plain{c, 5302}, nil, nil)
	refused := 0
	for _, name := range names() {
		for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX} {
			ours := through(t, x, name, typ)
			theirs, err := c.ask(5303, name, typ)
			if err != nil {
				t.Fatal(err)
			}
			open, err := c.ask(5302, name, typ)
			if err != nil {
				t.Fatal(err)
			}
			removed := len(theirs.Answer) < len(open.Answer)
			if blocked := strings.Contains(ours.String(), "EDE: 15 (Blocked)"); blocked != removed || !blocked && gist(ours, false) != gist(open, false) || blocked && len(ours.Answer) != 0 {
				t.Errorf("%s %s: %v\nunbound: %v", name, dns.TypeToString[typ], ours, theirs)
			}
			if removed {
				refused++
			}
		}
	}
	if refused < 10 {
		t.Errorf("unbound removed %d addresses", refused)
	}
}
