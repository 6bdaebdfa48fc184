// SPDX-License-Identifier: Apache-2.0

package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

const rulesDocument = "../../../docs/OPERATING.md"

// Addresses of the authoritative nameservers that these tests start.
const (
	rootAddr4, rootAddr6 = "203.0.113.53", "2001:db8:a::53"
	zoneAddr4, zoneAddr6 = "203.0.113.54", "2001:db8:a::54"
)

// glob returns a rule's pattern for the workload in a cgroup.
func glob(g *netlab.Cgroup) string { return "**/" + filepath.Base(g.Path) }

// startServer runs a DNS server until the test ends or stop is called, and waits until it
// has logged ready.
func (w world) startServer(h *netlab.Host, g *netlab.Cgroup, ready string, args ...string) (stop func()) {
	w.T.Helper()
	cmd := h.Command(context.Background(), g, labtest.NeedTool(w.T, args[0]), args[1:]...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // nsd has child processes
	var out labtest.LogBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }() // its status is the signal's
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
			<-exited
		}
	}
	w.T.Cleanup(func() {
		stop()
		if w.T.Failed() {
			w.T.Logf("%v wrote:\n%s", args, out.String())
		}
	})
	w.Until(args[0]+" to log "+ready, func() bool {
		select {
		case <-exited:
			w.T.Fatalf("%v exited:\n%s", args, out.String())
		default:
		}
		return strings.Contains(out.String(), ready)
	})
	return stop
}

// startNSD serves a zone with nsd in the LAN, at addresses that it adds.
func (w world) startNSD(zone, records string, addrs ...string) {
	w.T.Helper()
	dir := w.T.TempDir()
	config := fmt.Sprintf("server:\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n zonesdir: %q\n xfrdfile: %q\n xfrdir: %q\n zonelistfile: %q\n database: \"\"\n server-count: 1\n verbosity: 1\n",
		dir, dir+"/xfrd.state", dir, dir+"/zone.list")
	for _, addr := range addrs {
		bits := "/32"
		if strings.Contains(addr, ":") {
			if bits = "/128"; !netlab.HasIPv6() {
				continue
			}
		}
		if err := w.LAN.Addr("lo", addr+bits); err != nil {
			w.T.Fatal(err)
		}
		config += " ip-address: " + addr + "\n"
	}
	config += "remote-control:\n control-enable: no\nzone:\n name: " + zone + "\n zonefile: zone\n"
	e2e.WriteFile(w.T, dir+"/zone", "$ORIGIN "+zone+"\n$TTL 300\n@ SOA ns.auth.example. admin.auth.example. 1 3600 600 86400 60\n"+records)
	e2e.WriteFile(w.T, dir+"/nsd.conf", config)
	w.startServer(w.LAN, nil, "nsd started", "nsd", "-d", "-c", dir+"/nsd.conf")
}

// startAuthoritative serves a root zone and auth.example, which that delegates.
func (w world) startAuthoritative() {
	w.T.Helper()
	glue := fmt.Sprintf("ns.root. A %s\nns.root. AAAA %s\nns.auth.example. A %s\nns.auth.example. AAAA %s\n", rootAddr4, rootAddr6, zoneAddr4, zoneAddr6)
	w.startNSD(".", "@ NS ns.root.\nauth.example. NS ns.auth.example.\n"+glue, rootAddr4, rootAddr6)
	long := strings.Repeat(fmt.Sprintf(" %q", strings.Repeat("x", 250)), 10)
	w.startNSD("auth.example.", fmt.Sprintf("@ NS ns\nns A %s\nns AAAA %s\nwww A 203.0.113.80\nwww AAAA 2001:db8:a::80\n_acme-challenge TXT token\nlong TXT%s\n", zoneAddr4, zoneAddr6, long), zoneAddr4, zoneAddr6)
}

// checkPlain checks that plain packets were captured, all of them to or from the
// authoritative nameservers.
func (w world) checkPlain(packets []capture.Packet) {
	w.T.Helper()
	if len(packets) == 0 {
		w.T.Error("no plain packet was captured: does the capture work?")
	}
	for _, p := range packets {
		addr := p.Dst.Addr()
		if p.Response || p.Src.Port() == 53 {
			addr = p.Src.Addr()
		}
		switch addr.String() {
		case rootAddr4, rootAddr6, zoneAddr4, zoneAddr6:
		default:
			w.T.Errorf("plain DNS packet with another nameserver: %v", p)
		}
	}
}

// TestIteratingResolver runs unbound without a forward zone in a sealed cgroup. Without a
// rule it resolves nothing and no plain packet leaves. With the documented rule it iterates
// over UDP and TCP, while its other queries and those of another workload stay sealed.
func TestIteratingResolver(t *testing.T) {
	w := newWorld(t)
	w.startAuthoritative()
	g, other, outside := w.Cgroup("unbound"), w.Cgroup("other"), w.Cgroup("outside")
	dir := t.TempDir()
	e2e.WriteFile(t, dir+"/root.hints", fmt.Sprintf(". 3600000 NS ns.root.\nns.root. 3600000 A %s\nns.root. 3600000 AAAA %s\n", rootAddr4, rootAddr6))
	e2e.WriteFile(t, dir+"/unbound.conf", fmt.Sprintf(`server:
 directory: %q
 chroot: ""
 username: ""
 pidfile: ""
 use-syslog: no
 verbosity: 1
 num-threads: 1
 interface: 127.0.0.1@5335
 access-control: 127.0.0.0/8 allow
 module-config: "iterator"
 root-hints: %q
 do-ip6: %s
remote-control:
 control-enable: no
`, dir, dir+"/root.hints", map[bool]string{true: "yes", false: "no"}[netlab.HasIPv6()]))
	resolver := func() (stop func()) {
		return w.startServer(w.Host, g, "start of service", "unbound", "-d", "-c", dir+"/unbound.conf")
	}
	ask := func(args ...string) string {
		return w.Dig(w.Host, outside, append([]string{"@127.0.0.1", "-p", "5335", "+timeout=20"}, args...)...)
	}
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "")
	p := w.Start("msg=sealed", append(w.RunArgs(g, other), "--config", config)...)

	_, plain := w.CapturePlain()
	stop := resolver()
	if out := ask("www.auth.example"); !strings.Contains(out, "status: SERVFAIL") {
		t.Errorf("without a rule:\n%s", out)
	}
	if out := w.Dig(w.Host, g, "+norecurse", "@"+rootAddr4, "auth.example", "NS"); !strings.Contains(out, "status: REFUSED") || !strings.Contains(out, "a rule with rd = false and use =") {
		t.Errorf("a query without recursion:\n%s", out)
	}
	for _, packet := range plain() {
		t.Errorf("without a rule a plain packet left: %v", packet)
	}
	stop()

	e2e.WriteFile(t, config, e2e.DocumentedConfig(t, rulesDocument, "Iterating resolvers", "system.slice/unbound.service", glob(g)))
	if stdout, stderr, status := w.Sotto("reload"); status != 0 {
		t.Fatalf("reload: status %d, %q, %q", status, stdout, stderr)
	}
	_, plain = w.CapturePlain()
	resolver()
	for _, tc := range []struct{ name, typ, want string }{
		{"www.auth.example", "A", "203.0.113.80"},
		{"www.auth.example", "AAAA", "2001:db8:a::80"},
		{"none.auth.example", "A", "status: NXDOMAIN"},
		{"long.auth.example", "TXT", "xxxxxxxx"}, // over TCP from its nameserver
	} {
		if out := ask(tc.name, tc.typ); !strings.Contains(out, tc.want) {
			t.Errorf("%s %s: no %s in\n%s", tc.name, tc.typ, tc.want, out)
		}
	}
	for _, proto := range []string{"+notcp", "+tcp"} {
		if out := w.Dig(w.Host, g, proto, "@"+rootAddr4, "www.auth.example"); !strings.Contains(out, e2e.Sealed4) {
			t.Errorf("recursion by the nameserver itself, %s:\n%s", proto, out)
		}
		if out := w.Dig(w.Host, other, proto, "+norecurse", "@"+rootAddr4, "auth.example", "NS"); !strings.Contains(out, "status: REFUSED") {
			t.Errorf("another workload, %s:\n%s", proto, out)
		}
	}
	packets := plain()
	w.checkPlain(packets)
	tcp := false
	for _, packet := range packets {
		tcp = tcp || packet.Protocol == unix.IPPROTO_TCP
	}
	if !tcp {
		t.Error("no plain packet over TCP: the long answer did not need it")
	}
	w.Stop(p)
}

// TestACME checks an authoritative nameserver like an ACME client, which needs the server's
// own answer (AA). Without a rule it is refused, and no plain packet leaves.
func TestACME(t *testing.T) {
	w := newWorld(t)
	w.startAuthoritative()
	g, other := w.Cgroup("acme"), w.Cgroup("other")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "")
	p := w.Start("msg=sealed", append(w.RunArgs(g, other), "--config", config)...)
	servers := []string{zoneAddr4}
	if netlab.HasIPv6() {
		servers = append(servers, zoneAddr6)
	}
	checks := [][]string{{"auth.example", "SOA"}, {"_acme-challenge.auth.example", "TXT"}}
	each := func(what string, g *netlab.Cgroup, check func(out string) bool) {
		t.Helper()
		for _, server := range servers {
			for _, proto := range []string{"+notcp", "+tcp"} {
				for _, c := range checks {
					if out := w.Dig(w.Host, g, append(c, proto, "+norecurse", "@"+server)...); !check(out) {
						t.Errorf("%s:\n%s", what, out)
					}
				}
			}
		}
	}
	refused := func(out string) bool { return strings.Contains(out, "status: REFUSED") }

	_, plain := w.CapturePlain()
	each("without a rule", g, refused)
	if out := w.Dig(w.Host, g, "+opcode=UPDATE", "@"+zoneAddr4, "auth.example", "SOA"); !refused(out) {
		t.Errorf("UPDATE without a rule:\n%s", out)
	}
	for _, packet := range plain() {
		t.Errorf("without a rule a plain packet left: %v", packet)
	}

	e2e.WriteFile(t, config, e2e.DocumentedConfig(t, rulesDocument, "ACME DNS-01", "system.slice/certbot.service", glob(g), "example.org", "auth.example"))
	if stdout, stderr, status := w.Sotto("reload"); status != 0 {
		t.Fatalf("reload: status %d, %q, %q", status, stdout, stderr)
	}
	_, plain = w.CapturePlain()
	each("with the rule", g, func(out string) bool {
		return strings.Contains(out, "flags: qr aa;") && (strings.Contains(out, "ns.auth.example.") || strings.Contains(out, "\"token\""))
	})
	each("another workload", other, refused)
	// nsd implements no updates: its answer shows that it received one.
	if out := w.Dig(w.Host, g, "+opcode=UPDATE", "@"+zoneAddr4, "auth.example", "SOA"); !strings.Contains(out, "status: NOTIMP") {
		t.Errorf("UPDATE:\n%s", out)
	}
	if out := w.Dig(w.Host, g, "+opcode=NOTIFY", "@"+zoneAddr4, "auth.example", "SOA"); !refused(out) {
		t.Errorf("NOTIFY:\n%s", out)
	}
	if out := w.Dig(w.Host, g, "+norecurse", "@"+zoneAddr4, "www.auth.example", "A"); !refused(out) {
		t.Errorf("a type without a rule:\n%s", out)
	}
	if out := w.Dig(w.Host, g, "@"+zoneAddr4, "acme.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("another name:\n%s", out)
	}
	w.checkPlain(plain())
	w.Stop(p)
}

// TestBlocklist runs the documented blocklist with a hosts file and exceptions, and reloads
// both files. An error in one has its position and leaves the configuration in force.
func TestBlocklist(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g, filter := w.Cgroup("blocked"), w.Cgroup("filter")
	dir := t.TempDir()
	hosts, list, config := dir+"/hosts", dir+"/blocked.txt", dir+"/sotto.toml"
	e2e.WriteFile(t, hosts, "127.0.0.1 localhost\n203.0.113.7 printer.example printer\n203.0.113.8 own.tracker.example\n")
	e2e.WriteFile(t, list, "# names\ntracker.example\n0.0.0.0 ads.example\n")
	e2e.WriteFile(t, config, e2e.DocumentedConfig(t, rulesDocument, "Blocklists",
		"/etc/sotto/hosts", hosts, "/etc/sotto/blocked.txt", list, "system.slice/rspamd.service", glob(filter)))
	p := w.Start("msg=sealed", append(w.RunArgs(g, filter), "--config", config)...)
	check := func(g *netlab.Cgroup, want string, args ...string) {
		t.Helper()
		for _, proto := range []string{"+notcp", "+tcp"} {
			for _, server := range []string{"@8.8.8.8", "@2001:db8::53"} {
				if out := w.Dig(w.Host, g, append([]string{proto, server}, args...)...); !strings.Contains(out, want) {
					t.Errorf("%v: no %q in\n%s", args, want, out)
				}
			}
		}
	}
	check(g, "60\tIN\tA\t0.0.0.0", "www.tracker.example", "A")
	check(g, "60\tIN\tAAAA\t::", "tracker.example", "AAAA")
	check(g, "60\tIN\tSOA\tlocalhost.", "tracker.example", "HTTPS")
	check(g, "60\tIN\tA\t0.0.0.0", "ads.example")
	check(g, e2e.Sealed4, "www.ads.example")
	check(g, e2e.Sealed4, "cdn.tracker.example")
	check(filter, e2e.Sealed4, "www.tracker.example")
	check(g, "60\tIN\tA\t203.0.113.7", "PRINTER.example")
	check(g, "60\tIN\tA\t203.0.113.8", "own.tracker.example")
	check(g, "60\tIN\tPTR\tprinter.example.", "-x", "203.0.113.7")
	check(g, "ANSWER: 0, AUTHORITY: 1", "printer.example", "AAAA")

	e2e.WriteFile(t, hosts, "203.0.113.9 printer.example\n")
	if stdout, stderr, status := w.Sotto("reload"); status != 0 {
		t.Errorf("reload: status %d, %q, %q", status, stdout, stderr)
	}
	check(g, "203.0.113.9", "printer.example")
	e2e.WriteFile(t, hosts, "203.0.113.10 printer.example\nprinter.example 203.0.113.10\n")
	if _, stderr, status := w.Sotto("reload"); status != e2e.ExitFailure || !strings.Contains(stderr, config+":5:14: ") || !strings.Contains(stderr, hosts+":2: ") {
		t.Errorf("reload with an error: status %d, %q", status, stderr)
	}
	check(g, "203.0.113.9", "printer.example")
	if err := os.Remove(hosts); err != nil {
		t.Fatal(err)
	}
	if _, stderr, status := w.Sotto("reload"); status != e2e.ExitFailure || !strings.Contains(stderr, hosts) {
		t.Errorf("reload without the file: status %d, %q", status, stderr)
	}
	w.Stop(p)
}
