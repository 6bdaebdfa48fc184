// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"sotto/intercept/clienttest"
	"sotto/intercept/nat"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// The destinations of the rules in these tests: nameservers of the LAN.
const (
	forced4 = "8.8.4.4"
	forced6 = "2001:db8::54"
)

// natRule redirects all DNS of a host and its containers.
type natRule struct {
	name   string
	tool   string
	script string // shell commands, one per line
	may    bool   // the kernel may not support it
	first  bool   // it runs before existing chains with the same priority
}

// nftRule returns the rule for nftables, for each family or once for both.
func nftRule(name, match, verdict string, priority int, inet bool) natRule {
	var b strings.Builder
	table := func(family, rule string) {
		fmt.Fprintf(&b, "nft 'table %s force {", family)
		for _, hook := range []string{"prerouting", "output"} {
			fmt.Fprintf(&b, " chain %[1]s { type nat hook %[1]s priority %[2]d; %[3]s };", hook, priority, rule)
		}
		b.WriteString(" }'\n")
	}
	rule := func(family, to string) string {
		return "meta l4proto { tcp, udp } " + match + " " + strings.ReplaceAll(verdict, "TO", family+" to "+to) + ";"
	}
	if inet {
		table("inet", "meta nfproto ipv4 "+rule("ip", forced4)+" meta nfproto ipv6 "+rule("ip6", forced6))
	} else {
		table("ip", rule("ip", forced4))
		table("ip6", rule("ip6", forced6))
	}
	return natRule{name: name, tool: "nft", script: b.String(), first: priority == -199}
}

// iptablesRule returns the rule for one of the two implementations of iptables.
func iptablesRule(kind, match, verdict string) natRule {
	r := natRule{
		name: strings.Join(strings.Fields("iptables-"+kind+" "+match+" "+verdict), " "),
		tool: "iptables-" + kind, may: kind == "legacy",
	}
	for family, to := range map[string]string{"ip": forced4, "ip6": forced6} {
		for _, chain := range []string{"PREROUTING", "OUTPUT"} {
			for _, proto := range []string{"udp", "tcp"} {
				r.script += fmt.Sprintf("%stables-%s -t nat -A %s -p %s %s -j %s\n", family, kind, chain, proto, match,
					strings.ReplaceAll(verdict, "TO", "--to-destination "+to))
			}
		}
	}
	return r
}

var natRules = []natRule{
	nftRule("nft dnat", "th dport 53", "dnat TO", -100, false),
	nftRule("nft dnat of any port", "", "dnat TO", -100, false),
	nftRule("nft redirect", "th dport 53", "redirect", -100, false),
	nftRule("nft redirect of any port", "", "redirect", -100, false),
	nftRule("nft dnat, inet", "th dport 53", "dnat TO", -100, true),
	nftRule("nft dnat, lower priority", "th dport 53", "dnat TO", -150, false),
	nftRule("nft dnat, the same priority", "th dport 53", "dnat TO", -199, false),
	iptablesRule("nft", "--dport 53", "DNAT TO"),
	iptablesRule("nft", "", "REDIRECT"),
	iptablesRule("legacy", "--dport 53", "DNAT TO"),
	iptablesRule("legacy", "", "DNAT TO"),
	iptablesRule("legacy", "--dport 53", "REDIRECT"),
}

// load loads the rule. It reports false if the kernel does not support it.
func (r natRule) load(t *testing.T, at *netlab.Host) bool {
	t.Helper()
	labtest.NeedTool(t, r.tool)
	out, err := at.Command(t.Context(), nil, "sh", "-ec", r.script).CombinedOutput()
	if err != nil && r.may && strings.Contains(string(out), "does not exist") { // the table
		t.Logf("not supported by this kernel: %s", out)
		return false
	}
	if err != nil {
		t.Fatalf("%v\n%s%s", err, r.script, out)
	}
	return true
}

// natLab is a host with a container, and a seal of both.
type natLab struct {
	testSeal
	inside *netlab.Host
	open   *netlab.Cgroup // not sealed
	cfg    Config
}

func newNATLab(t *testing.T) *natLab {
	t.Helper()
	s := &natLab{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group, s.open = s.unsealed(t, "work"), s.unsealed(t, "open")
	s.inside = labtest.Containers(t, s.lab, s.host, "inside")[0]
	s.cfg = sealTestConfig(t, s.group)
	// The destinations of the rules answer.
	for addr, at := range map[string]*netlab.Host{forced4: s.lan, forced6: s.lan, "": s.host} {
		echoAt(t, at, net.JoinHostPort(addr, "53"))
	}
	return s
}

// table returns the instance's table of a family as nft shows it, with handles, which differ
// after it was written again. It returns "" if there is none.
func (s *natLab) table(t *testing.T, family string) string {
	t.Helper()
	out, err := s.host.Command(t.Context(), nil, labtest.NeedTool(t, "nft"), "-a", "list", "table", family, s.cfg.Name+"_nat").CombinedOutput()
	if err != nil && !strings.Contains(string(out), "No such file or directory") {
		t.Fatalf("%v\n%s", err, out)
	}
	if err != nil {
		return ""
	}
	return string(out)
}

// nft runs nft on the host.
func (s *natLab) nft(t *testing.T, rules string) {
	t.Helper()
	if out, err := s.host.Command(t.Context(), nil, labtest.NeedTool(t, "nft"), rules).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// seal starts an instance and runs it until stop is called.
func (s *natLab) seal(t *testing.T) (stop func()) {
	t.Helper()
	s.Instance = openAt(t, s.host, s.cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	return s.run(t)
}

// answered sends queries of sealed clients from the container and from the host, in all
// ways, and reports an error if the listener does not answer one, or if a packet leaves.
func (s *natLab) answered(t *testing.T, when string) {
	t.Helper()
	n := s.crossed(t, func() {
		for where, at := range map[string]*netlab.Host{"container": s.inside, "host": s.host} {
			c := clienttest.Start(t, at, s.group)
			for family, ns := range map[string]string{"4": "9.9.9.9:53", "6": "[2001:db8::53]:53"} {
				for step, want := range map[string]string{
					fmt.Sprintf("socket u udp%s\nsendto u %s\nrecv u", family, ns):                s.about(ns) + " from " + ns,
					fmt.Sprintf("socket c udp%[1]s\nconnect c %[2]s\nsend c\nrecv c", family, ns): s.about(ns) + " from " + ns,
					fmt.Sprintf("socket t tcp%[1]s\nconnect t %[2]s\nsend t\nrecv t", family, ns): s.about(ns),
				} {
					var got string
					for line := range strings.Lines(step) {
						got = c.Do("%s", strings.TrimSpace(line))
					}
					if got != want {
						t.Errorf("rule %s the seal, %s, %q: got %q, want %q", when, where, step, got, want)
					}
				}
			}
			c.Stop()
		}
	})
	if n != 0 {
		t.Errorf("rule %s the seal: %d packets left", when, n)
	}
}

// inForce reports an error unless the rule translates the queries of programs without a seal:
// they get an answer from an address that does not exist.
func (s *natLab) inForce(t *testing.T) {
	t.Helper()
	for _, at := range []*netlab.Host{s.inside, s.host} {
		c := clienttest.Start(t, at, s.open)
		for family, ns := range map[string]string{"4": "203.0.113.53:53", "6": "[2001:db8:ffff::53]:53"} {
			c.Want(fmt.Sprintf("socket u udp%s => ok\nsendto u %s => ok", family, ns))
			if got := c.Do("recv u"); !strings.HasPrefix(got, clienttest.Question) {
				t.Errorf("the rule has no effect in %s: %s", at.Name, got)
			}
			c.Do("close u")
		}
		c.Stop()
	}
}

// A nat rule that redirects all DNS does not translate queries of sealed programs, in a
// container or on the host, whether it was added before or after the seal.
func TestLeakNAT(t *testing.T) {
	for _, rule := range natRules {
		t.Run(rule.name, func(t *testing.T) {
			s := newNATLab(t)
			stop := s.seal(t)
			before4, before6 := s.table(t, "ip"), s.table(t, "ip6")
			if !rule.load(t, s.host) {
				return
			}
			if rule.first { // until both tables were written again
				labtest.WaitFor(t, "other tables", func() bool { return s.table(t, "ip") != before4 && s.table(t, "ip6") != before6 })
			}
			s.answered(t, "after")
			s.inForce(t)
			stop()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if left := s.table(t, "ip") + s.table(t, "ip6"); left != "" {
				t.Errorf("leftovers:\n%s", left)
			}
			s.seal(t)
			s.answered(t, "before")
			s.inForce(t)
		})
	}
}

// A seal does not enable NAT on a host without NAT. If another program adds a nat chain, the
// seal's own table is added, and removed with it.
func TestNATFollowsHost(t *testing.T) {
	s := &natLab{testSeal: *openSeal(t, nil)}
	s.testSeal.run(t)
	s.cfg = s.Instance.cfg
	echoAt(t, s.lan, net.JoinHostPort(forced4, "53"))
	s.wire(t)
	ask := func() {
		s.client(t).Want("socket u udp4 => ok\nsendto u 9.9.9.9:53 => ok\nrecv u => " + s.about("9.9.9.9:53") + " from 9.9.9.9:53")
	}
	ask()
	if got := s.table(t, "ip") + s.table(t, "ip6"); got != "" {
		t.Errorf("without NAT there is\n%s", got)
	}
	for range 2 {
		s.nft(t, "table ip force { chain o { type nat hook output priority -100; udp dport 53 dnat to "+forced4+"; }; }")
		labtest.WaitFor(t, "the table", func() bool { return s.table(t, "ip") != "" })
		ask()
		s.nft(t, "delete table ip force")
		labtest.WaitFor(t, "the end of the table", func() bool { return s.table(t, "ip") == "" })
		ask()
	}
}

// A socket whose packets were translated is answered when they are no longer.
func TestNATForgetsTranslated(t *testing.T) {
	s := newNATLab(t)
	s.nft(t, "delete table ip br0; delete table ip6 br0") // the next nat rule is then the only one
	if err := errors.Join(s.lan.Route("10.88.0.0/24", netlab.HostAddr4), s.lan.Route("fd88::/64", netlab.HostAddr6)); err != nil {
		t.Fatal(err)
	}
	s.Instance = openAt(t, s.host, s.cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	natRules[0].load(t, s.host)
	c := clienttest.Start(t, s.inside, s.group)
	for family, ns := range map[string]string{"4": "9.9.9.9:53", "6": "[2001:db8::53]:53"} {
		c.Want(fmt.Sprintf("socket u%[1]s udp%[1]s => ok\nconnect u%[1]s %[2]s => ok\nsend u%[1]s => ok", family, ns))
		if got := c.Do("recv u%s", family); strings.Contains(got, s.about(ns)) {
			t.Fatalf("%s: not translated: %s", ns, got)
		}
	}
	if err := s.nat.Ensure(); err != nil {
		t.Fatal(err)
	}
	n := s.crossed(t, func() {
		c.Want("send u4 => ok\nrecv u4 => " + s.about("9.9.9.9:53") + " from 9.9.9.9:53")
		c.Want("send u6 => ok\nrecv u6 => " + s.about("[2001:db8::53]:53") + " from [2001:db8::53]:53")
	})
	if n != 0 {
		t.Errorf("%d packets left", n)
	}
}

// After a crash the table stays, so that packets to the virtual addresses are still not
// translated. The next start adopts it, and down removes it.
func TestNATAfterKill(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *natLab){
		"down": func(t *testing.T, s *natLab) {
			if err := downAt(s.host, s.cfg); err != nil {
				t.Fatal(err)
			}
		},
		"start": func(t *testing.T, s *natLab) {
			before := s.table(t, "ip") + s.table(t, "ip6")
			stop := s.seal(t)
			if after := s.table(t, "ip") + s.table(t, "ip6"); after != before {
				t.Errorf("written again: before\n%safter\n%s", before, after)
			}
			s.answered(t, "before")
			stop()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"abandon": func(t *testing.T, s *natLab) {
			stop := s.seal(t)
			stop()
			if err := s.Abandon(); err != nil {
				t.Fatal(err)
			}
			if s.table(t, "ip") == "" || s.table(t, "ip6") == "" {
				t.Error("Abandon removed the table")
			}
			if err := downAt(s.host, s.cfg); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newNATLab(t)
			natRules[0].load(t, s.host)
			kill(startSealer(t, s.host, s.cfg))
			n := s.crossed(t, func() {
				for _, at := range []*netlab.Host{s.inside, s.host} {
					clienttest.Start(t, at, s.group).Want(`
						socket u udp4 => ok
						connect u 9.9.9.9:53 => ok
						send u => ok
						recv u => ECONNREFUSED
						socket t tcp6 => ok
						connect t [2001:db8::53]:53 => ECONNREFUSED`)
				}
			})
			if n != 0 {
				t.Errorf("%d packets left", n)
			}
			end(t, s)
			nothingLeft(t, s.host, s.cfg)
		})
	}
}

// The NAT of the host does not connect an internal network to the listener.
func TestNATInternalNetwork(t *testing.T) {
	s := newNATLab(t)
	natRules[0].load(t, s.host)
	// Like Docker for an internal network.
	s.nft(t, `table ip internal { chain f { type filter hook forward priority -1; ip saddr 10.88.0.2 ip daddr != 10.88.0.0/24 drop; }; }
		table ip6 internal { chain f { type filter hook forward priority -1; ip6 saddr fd88::2 ip6 daddr != fd88::/64 drop; }; }`)
	s.seal(t)
	s.wire(t)
	clienttest.Start(t, s.inside, s.group).Want(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => EAGAIN
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => EAGAIN
		socket c tcp4 => ok
		connect c 8.8.8.8:53 => EINPROGRESS`)
}

// Down finds a table if the instance has left nothing else.
func TestDownFindsTable(t *testing.T) {
	s := newNATLab(t)
	stray := network.NthAssignment(7)
	err := s.host.Do(func() error {
		table, err := nat.New(nat.Config{Instance: stray.Name, Prefixes: []netip.Prefix{stray.Prefix4, stray.Prefix6}})
		if err != nil {
			return err
		}
		return errors.Join(table.Ensure(), table.Leave())
	})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Name = stray.Name
	if s.table(t, "ip") == "" || s.table(t, "ip6") == "" {
		t.Fatal("the table was not added")
	}
	if err := s.host.Do(func() error { return down(t.Context(), slog.New(slog.DiscardHandler), t.TempDir(), t.TempDir()) }); err != nil {
		t.Fatal(err)
	}
	if left := s.table(t, "ip") + s.table(t, "ip6"); left != "" {
		t.Errorf("leftovers:\n%s", left)
	}
}
