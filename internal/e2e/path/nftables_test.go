// SPDX-License-Identifier: Apache-2.0

package path

import (
	"context"
	"errors"
	"strings"
	"testing"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

const v4, v6 = "8.8.8.8", "2001:4860:4860::8888"

// TestOpenPath checks that there is no warning if nothing blocks queries, that namespaces
// without a way out are no reason for one, and that a stop removes everything.
func TestOpenPath(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	isolated, network, other := labtest.Host(t, w.Lab, "isolated"), labtest.Host(t, w.Lab, "network"), labtest.Host(t, w.Lab, "other")
	if err := errors.Join(w.Lab.Wire(network, "eth0", other, "eth0"), network.Addr("eth0", "10.9.0.1/24", "fd09::1/64")); err != nil {
		t.Fatal(err)
	}
	w.background(isolated, g)
	w.background(network, g)
	p := w.run(g)
	if strings.Contains(p.Log(), "level=WARN") {
		t.Errorf("warnings:\n%s", p.Log())
	}
	for _, text := range []string{"no address of this family", "network is unreachable"} {
		if !strings.Contains(p.Log(), text) {
			t.Errorf("the log does not contain %q:\n%s", text, p.Log())
		}
	}
	w.Stop(p)
	w.NothingLeft()
}

// TestHostWithoutIPv6 checks that there is no warning about a family that the host has switched
// off, or has no addresses of.
func TestHostWithoutIPv6(t *testing.T) {
	for name, sysctls := range map[string][]string{
		"disabled":     {"net/ipv6/conf/all/disable_ipv6", "1", "net/ipv6/conf/default/disable_ipv6", "1"},
		"on the link":  {"net/ipv6/conf/eth0/disable_ipv6", "1"},
		"for new ones": {"net/ipv6/conf/default/disable_ipv6", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.Host.Sysctl(sysctls...); err != nil {
				t.Fatal(err)
			}
			g := w.Cgroup("workload")
			p := w.run(g)
			if len(w.warnings(p)) > 0 {
				t.Errorf("warnings:\n%s", p.Log())
			}
			if !w.answered(w.Host, g, v4) {
				t.Error("IPv4 queries are not answered")
			}
			w.Stop(p)
		})
	}
}

// background starts a process in a host and a cgroup that runs until the test ends.
func (w world) background(h *netlab.Host, g *netlab.Cgroup) {
	w.T.Helper()
	cmd := h.Command(context.Background(), g, "sleep", "infinity")
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// TestHostChains checks chains of the host that drop the queries, or their replies, of its own
// processes. The change that the log names is executed.
func TestHostChains(t *testing.T) {
	labtest.NeedTool(t, "nft")
	const rest = `meta oifname { "lo", "eth0" } accept;`
	for name, c := range map[string]struct {
		rules, block, fix, transport string
		blocked                      []string
		passes                       []string
	}{
		"output": {
			"table inet filter { chain output { type filter hook output priority 0; policy drop; " + rest + " }; }",
			"nftables chain inet filter output (policy drop)", `nft insert rule inet filter output oifname "sotto0" accept`,
			"udp4, tcp4, udp6, tcp6", []string{v4, v6}, nil,
		},
		"output of IPv6": {
			"table ip6 fw { chain out { type filter hook output priority 0; policy drop; " + rest + " }; }",
			"nftables chain ip6 fw out (policy drop)", `nft insert rule ip6 fw out oifname "sotto0" accept`,
			"udp6, tcp6", []string{v6}, []string{v4},
		},
		"rules behind a jump": {
			"table ip fw { chain more { meta l4proto { tcp, udp } ip daddr 198.18.0.0/15 reject; }; chain out { type filter hook output priority 0; jump more; }; }",
			"nftables chain ip fw out (has rules that drop)", `nft insert rule ip fw out oifname "sotto0" accept`,
			"udp4, tcp4", []string{v4}, []string{v6},
		},
		"input": {
			`table inet filter { chain input { type filter hook input priority 0; policy drop; iifname { "lo", "eth0" } accept; }; chain output { type filter hook output priority 0; policy accept; }; }`,
			"nftables chain inet filter input (policy drop)", `nft insert rule inet filter input iifname "sotto0" accept`,
			"udp4, tcp4, udp6, tcp6", []string{v4, v6}, nil,
		},
		"input of TCP": {
			`table ip filter { chain INPUT { type filter hook input priority 0; iifname { "lo", "eth0" } accept; meta l4proto tcp drop; }; }`,
			"nftables chain ip filter INPUT (has rules that drop)", `nft insert rule ip filter INPUT iifname "sotto0" accept`,
			"tcp4", nil, []string{v6},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			g := w.Cgroup("workload")
			w.Shell("nft '" + c.rules + "'")
			p := w.run(g, w.Cgroup("other")) // the cause is logged once
			got := w.one(p)
			if got != (blocked{g.Path, "", c.transport, c.block, c.fix}) {
				t.Errorf("got %+v, want %s, %s, %s\n%s", got, c.transport, c.block, c.fix, p.Log())
			}
			for _, ns := range c.blocked {
				if w.answered(w.Host, g, ns) {
					t.Errorf("queries to %s are answered: this test proves nothing", ns)
				}
			}
			for _, ns := range c.passes {
				if !w.answered(w.Host, g, ns) {
					t.Errorf("queries to %s are not answered, and no warning says so", ns)
				}
			}
			w.Shell(got.fix)
			for _, ns := range []string{v4, v6} {
				if !w.answered(w.Host, g, ns) {
					t.Errorf("queries to %s are not answered after: %s", ns, got.fix)
				}
			}
			w.Stop(p)
			if q := w.run(g); len(w.warnings(q)) > 0 {
				t.Errorf("warnings after the change:\n%s", q.Log())
			}
		})
	}
}

// TestLegacyTable checks a table of iptables-legacy, which nftables does not show.
func TestLegacyTable(t *testing.T) {
	w := newWorld(t)
	if out, err := w.Host.Command(t.Context(), nil, labtest.NeedTool(t, "iptables-legacy"), "-P", "OUTPUT", "DROP").CombinedOutput(); err != nil {
		t.Skipf("this kernel has no iptables-legacy: %s", out)
	}
	w.Shell("iptables-legacy -A OUTPUT -o lo -j ACCEPT; iptables-legacy -A OUTPUT -o eth0 -j ACCEPT")
	g := w.Cgroup("workload")
	p := w.run(g)
	got := w.one(p)
	want := blocked{g.Path, "", "udp4, tcp4", "the table filter of iptables-legacy (if it drops)", "iptables-legacy -I OUTPUT -o sotto0 -j ACCEPT"}
	if got != want {
		t.Errorf("got  %+v\nwant %+v\n%s", got, want, p.Log())
	}
	if w.answered(w.Host, g, v4) || !w.answered(w.Host, g, v6) {
		t.Error("IPv4 queries are answered, or IPv6 queries are not: this test proves nothing")
	}
	w.Shell(got.fix)
	if !w.answered(w.Host, g, v4) {
		t.Errorf("queries are not answered after: %s", got.fix)
	}
}

// TestContainerChains checks chains that drop the queries of a container behind a bridge: on
// the host, and in the container's own namespace.
func TestContainerChains(t *testing.T) {
	labtest.NeedTool(t, "nft")
	for name, c := range map[string]struct {
		inside bool
		rules  string
		block  string
	}{
		"forward": {
			false, `table inet filter { chain forward { type filter hook forward priority 0; policy drop; iifname "br0" oifname "eth0" accept; ct state established accept; }; chain input { type filter hook input priority 0; policy accept; }; }`,
			"nftables chain inet filter forward (policy drop)",
		},
		"output of the container": {
			true, `table inet filter { chain output { type filter hook output priority 0; policy drop; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }`,
			"nftables chain inet filter output in the network namespace of process ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			g := w.Cgroup("workload")
			bridge, err := w.Lab.Bridge(t.Context(), w.Host, "br0", 1)
			if err != nil {
				t.Fatal(err)
			}
			container, err := w.Lab.Container(bridge, "container")
			if err != nil {
				t.Fatal(err)
			}
			w.background(container, g)
			at := w.Host
			if c.inside {
				at = container
			}
			if out, err := at.Command(t.Context(), nil, "nft", c.rules).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			p := w.run(g)
			got := w.one(p)
			if !strings.HasPrefix(got.block, c.block) || got.netns == "" || got.cgroup != g.Path || got.transport != "udp4, tcp4, udp6, tcp6" {
				t.Errorf("got %+v, want %s\n%s", got, c.block, p.Log())
			}
			if w.answered(container, g, v4) {
				t.Error("queries are answered: this test proves nothing")
			}
			w.Shell(got.fix)
			for _, ns := range []string{v4, v6} {
				if !w.answered(container, g, ns) {
					t.Errorf("queries to %s are not answered after: %s", ns, got.fix)
				}
			}
			w.Stop(p)
		})
	}
}
