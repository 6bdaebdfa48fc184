// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

var (
	prefix4 = netip.MustParsePrefix("198.18.252.0/22") // not on a byte boundary
	prefix6 = netip.MustParsePrefix("fd73:6f74:746f:fff::/64")
)

// host is a host of the lab, with a ruleset of its own.
type host struct {
	*netlab.Host
	t   *testing.T
	nft string
}

func newHost(t *testing.T) *host {
	t.Helper()
	l := labtest.New(t)
	return &host{labtest.Host(t, l, "host"), t, labtest.NeedTool(t, "nft")}
}

// run runs a command on the host and returns its output.
func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Command(h.t.Context(), nil, name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// rules passes text to nft: a ruleset, or a command.
func (h *host) rules(text string) { h.t.Helper(); h.run(h.nft, text) }

// tables lists the tables of the host in the format of nft: "ip sotto_nat".
func (h *host) tables() []string {
	h.t.Helper()
	var names []string
	for line := range strings.Lines(h.run(h.nft, "list", "tables")) {
		names = append(names, strings.TrimPrefix(strings.TrimSpace(line), "table "))
	}
	slices.Sort(names)
	return names
}

func (h *host) wantTables(want ...string) {
	h.t.Helper()
	if got := h.tables(); !slices.Equal(got, want) {
		h.t.Fatalf("tables %q, want %q", got, want)
	}
}

// waitTables waits until Run has changed the tables.
func (h *host) waitTables(want ...string) {
	h.t.Helper()
	h.waitFor(strings.Join(want, ", "), func() bool { return slices.Equal(h.tables(), want) })
}

func (h *host) waitFor(what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited in vain: %s\n%s", what, h.run(h.nft, "-a", "list", "ruleset"))
		}
	}
}

// table prepares the table of an instance on the host. logs receives its warnings.
func (h *host) table(instance string) (t *Table, logs *labtest.LogBuffer) {
	h.t.Helper()
	logs = &labtest.LogBuffer{}
	err := h.Do(func() (err error) {
		t, err = New(Config{
			Instance: instance, Prefixes: []netip.Prefix{prefix4, prefix6},
			Log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := t.Remove(); err != nil {
			h.t.Errorf("remove: %v", err)
		}
	})
	return t, logs
}

func (h *host) ensure(t *Table) {
	h.t.Helper()
	if err := t.Ensure(); err != nil {
		h.t.Fatal(err)
	}
}

// start runs a table until stop is called or the test ends.
func (h *host) start(t *Table) (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := t.Run(ctx); err != nil {
			h.t.Errorf("run: %v", err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	h.t.Cleanup(stop)
	return stop
}

// withHandles returns the table of a family as nft shows it, with handles. They differ after
// the table was written again.
func (h *host) withHandles(family, name string) string {
	h.t.Helper()
	return h.run(h.nft, "-a", "list", "table", family, name)
}

const (
	post4  = "table ip others { chain post { type nat hook postrouting priority srcnat; }; }"
	post6  = "table ip6 others { chain post { type nat hook postrouting priority srcnat; }; }"
	inet   = "table inet others { chain pre { type nat hook prerouting priority dstnat; }; }"
	filter = "table inet filter { chain pre { type filter hook prerouting priority 0; }; }"
)

// The table is the same as one that nft(8) writes.
func TestRules(t *testing.T) {
	h := newHost(t)
	h.rules(inet)
	table, _ := h.table("sotto")
	h.ensure(table)
	for family, rule := range map[string]string{
		"ip":  "ip daddr 198.18.252.0/22 dnat to ip daddr",
		"ip6": "ip6 daddr fd73:6f74:746f:fff::/64 dnat to ip6 daddr",
	} {
		want := "table " + family + ` sotto_nat {
	chain prerouting {
		type nat hook prerouting priority -199; policy accept;
		` + rule + `
	}

	chain output {
		type nat hook output priority -199; policy accept;
		` + rule + `
	}
}
`
		if got := h.run(h.nft, "list", "table", family, "sotto_nat"); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
}

// A family has a table only while another program translates its addresses, because the table
// makes the kernel track connections.
func TestFollowsOthers(t *testing.T) {
	h := newHost(t)
	h.rules(filter)
	table, logs := h.table("sotto")
	h.ensure(table)
	h.wantTables("inet filter")
	h.start(table)
	h.rules(post4)
	h.waitTables("inet filter", "ip others", "ip sotto_nat")
	h.rules(post6)
	h.waitTables("inet filter", "ip others", "ip sotto_nat", "ip6 others", "ip6 sotto_nat")
	h.rules("delete chain ip others post")
	h.waitTables("inet filter", "ip others", "ip6 others", "ip6 sotto_nat")
	h.rules("delete table ip6 others")
	h.waitTables("inet filter", "ip others")
	h.rules(inet)
	h.waitTables("inet filter", "inet others", "ip others", "ip sotto_nat", "ip6 sotto_nat")
	h.rules("flush ruleset")
	h.waitTables()
	if logs.String() != "" {
		t.Errorf("logged %s", logs.String())
	}
}

// The tables of several instances do not count as those of other programs.
func TestInstances(t *testing.T) {
	h := newHost(t)
	h.rules(post4)
	one, _ := h.table("sotto")
	two, _ := h.table("sotto-0")
	h.start(one)
	h.start(two)
	h.waitTables("ip others", "ip sotto-0_nat", "ip sotto_nat")
	err := h.Do(func() error {
		names, err := Instances()
		if !slices.Equal(names, []string{"sotto", "sotto-0"}) {
			t.Errorf("instances %q", names)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	h.rules("delete table ip others")
	h.waitTables()
}

// Changes of the table by another program are undone.
func TestRestores(t *testing.T) {
	h := newHost(t)
	h.rules(inet)
	table, logs := h.table("sotto")
	h.ensure(table)
	h.start(table)
	for _, change := range []string{
		"delete table ip sotto_nat",
		"delete chain ip6 sotto_nat output",
		"flush chain ip sotto_nat prerouting",
		"insert rule ip sotto_nat prerouting accept",
		"add rule ip6 sotto_nat output udp dport 53 dnat to fd54::2",
		"add chain ip sotto_nat extra",
		"chain ip sotto_nat output { policy drop; }",
		"add table ip sotto_nat { flags dormant; }",
		"flush chain ip sotto_nat output; add rule ip sotto_nat output ip daddr 198.18.0.0/22 dnat to ip daddr",
		"flush chain ip sotto_nat output; add rule ip sotto_nat output ip daddr 198.18.252.0/22 dnat to ip saddr",
		"flush chain ip sotto_nat output; add rule ip sotto_nat output ip daddr 198.18.252.0/22 dnat to 10.54.0.2",
		"flush ruleset; " + inet,
	} {
		want := [2]string{h.run(h.nft, "list", "table", "ip", "sotto_nat"), h.run(h.nft, "list", "table", "ip6", "sotto_nat")}
		h.rules(change)
		h.waitFor("the table as it was before: "+change, func() bool {
			out4, err4 := h.Command(t.Context(), nil, h.nft, "list", "table", "ip", "sotto_nat").Output()
			out6, err6 := h.Command(t.Context(), nil, h.nft, "list", "table", "ip6", "sotto_nat").Output()
			return err4 == nil && err6 == nil && [2]string{string(out4), string(out6)} == want
		})
	}
	h.waitFor("a warning", func() bool { return strings.Contains(logs.String(), "restored the NAT exemption") })
}

// A table that is complete is not changed, also by the next process.
func TestAdopts(t *testing.T) {
	h := newHost(t)
	h.rules(inet)
	table, _ := h.table("sotto")
	h.ensure(table)
	before := h.withHandles("ip", "sotto_nat") + h.withHandles("ip6", "sotto_nat")
	h.ensure(table)
	if err := table.Leave(); err != nil {
		t.Fatal(err)
	}
	next, _ := h.table("sotto")
	h.ensure(next)
	if after := h.withHandles("ip", "sotto_nat") + h.withHandles("ip6", "sotto_nat"); after != before {
		t.Errorf("written again: before\n%safter\n%s", before, after)
	}
	// Another version of Sotto may have left another table.
	if err := next.Leave(); err != nil {
		t.Fatal(err)
	}
	h.rules("flush table ip sotto_nat")
	last, _ := h.table("sotto")
	h.ensure(last)
	if after := h.run(h.nft, "list", "table", "ip", "sotto_nat"); strings.Count(after, "dnat to ip daddr") != 2 {
		t.Errorf("not corrected:\n%s", after)
	}
	if err := last.Remove(); err != nil {
		t.Fatal(err)
	}
	h.wantTables("inet others")
	h.ensure(last) // after Remove
	h.wantTables("inet others")
}

// Remove removes the leftovers of a dead instance, and nothing else.
func TestRemoveLeftovers(t *testing.T) {
	h := newHost(t)
	h.rules(inet)
	table, _ := h.table("sotto")
	other, _ := h.table("sotto-1")
	h.ensure(table)
	h.ensure(other)
	// Tables of no instance: another family, other names.
	h.rules("add table inet sotto_nat; add table ip sottovoce_nat; add table ip sotto")
	for range 2 {
		if err := h.Do(func() error { return Remove("sotto") }); err != nil {
			t.Fatal(err)
		}
		h.wantTables("inet others", "inet sotto_nat", "ip sotto", "ip sotto-1_nat", "ip sottovoce_nat", "ip6 sotto-1_nat")
	}
}

// A chain of another program with the same priority that is added later would run first, so
// the table is written again.
func TestRunsFirst(t *testing.T) {
	h := newHost(t)
	other := "table ip others { chain pre { type nat hook prerouting priority -199; }; }"
	h.rules(other)
	table, logs := h.table("sotto")
	h.ensure(table)
	h.start(table)
	for _, change := range []string{
		"delete table ip others; " + other, // like a reload of a firewall
		"add table ip more { chain pre { type nat hook prerouting priority -199; }; }",
		"add chain ip others again { type nat hook output priority -199; }",
	} {
		before := h.withHandles("ip", "sotto_nat")
		h.rules(change)
		h.waitFor("the table written again after: "+change, func() bool { return h.withHandles("ip", "sotto_nat") != before })
	}
	if logs.String() != "" {
		t.Errorf("logged %s", logs.String())
	}
}

// A chain that is added between the first Ensure and Run causes no event.
func TestRunsFirstFromStart(t *testing.T) {
	h := newHost(t)
	h.rules(post4)
	table, _ := h.table("sotto")
	h.ensure(table)
	before := h.withHandles("ip", "sotto_nat")
	h.rules("add table ip more { chain pre { type nat hook prerouting priority -199; }; }")
	h.start(table)
	h.waitFor("the table written again", func() bool { return h.withHandles("ip", "sotto_nat") != before })
}

// iptables-legacy has nat chains that nftables does not list, and no events.
func TestFollowsLegacy(t *testing.T) {
	h := newHost(t)
	for family, program := range map[string]string{"ip": "iptables-legacy", "ip6": "ip6tables-legacy"} {
		path := labtest.NeedTool(t, program)
		table, _ := h.table("sotto")
		stop := h.start(table)
		if out, err := h.Command(t.Context(), nil, path, "-t", "nat", "-A", "PREROUTING", "-j", "ACCEPT").CombinedOutput(); err != nil {
			stop()
			t.Logf("not supported by this kernel: %s", out)
			continue
		}
		h.waitFor(family, func() bool { return slices.Contains(h.tables(), family+" sotto_nat") })
		stop()
		if err := table.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	h.wantTables()
}
