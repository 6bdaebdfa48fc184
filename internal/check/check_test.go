// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/address"
	"sotto/intercept"
	"sotto/intercept/cgroup"
	"sotto/intercept/filters"
	"sotto/intercept/others"
	"sotto/internal/capture"
	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/status"
)

// is compares the state of a result, and looks for parts of its texts.
func is(t *testing.T, what string, r Result, state State, detail, fix string) {
	t.Helper()
	if r.State != state || !strings.Contains(r.Detail, detail) || !strings.Contains(r.Fix, fix) {
		t.Errorf("%s: %+v, want %s, %q, %q", what, r, state, detail, fix)
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		r      Result
		colour bool
		want   string
	}{
		{ok("kernel", "6.18"), false, "ok      kernel: 6.18\n"},
		{warning("a", "do this", "it\x1b[31m\nis"), false, "warning a: it [31m is\n        fix: do this\n"},
		{failed("a", "do this", "broken"), true, "\x1b[31mfailed \x1b[0m a: broken\n        fix: do this\n"},
	} {
		var b strings.Builder
		if err := c.r.Text(&b, c.colour); err != nil || b.String() != c.want {
			t.Errorf("%q, %v, want %q", b.String(), err, c.want)
		}
	}
}

func TestReportState(t *testing.T) {
	for _, c := range []struct {
		states []State
		want   State
	}{
		{[]State{OK, Skipped}, OK},
		{[]State{Warning, OK, Skipped}, Warning},
		{[]State{Failed, Warning, OK}, Failed},
	} {
		r := Report{State: OK}
		for _, s := range c.states {
			r.add(Result{State: s})
		}
		if r.State != c.want {
			t.Errorf("%v: %s, want %s", c.states, r.State, c.want)
		}
	}
}

func TestLackingCapabilities(t *testing.T) {
	for text, want := range map[string][]string{
		"Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n": nil,
		"Name:\tx\nCapEff:\t000001ffffdfffff\n":             {"CAP_SYS_ADMIN"},
		"Name:\tx\nCapEff:\t0000000000000000\n":             {"CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN"},
	} {
		if got, err := lackingCapabilities(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "Name:\tx\nCapEff:\n", "Name:\tx\nCapEff:\tzz\n"} {
		if _, err := lackingCapabilities(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// An excluded cgroup need not exist, nor its parents: its service may not have started yet.
func TestCgroup2MissingExclude(t *testing.T) {
	root, err := cgroup.Root()
	if err != nil {
		t.Skip(err)
	}
	m := &machine{seal: intercept.Config{Exclude: []string{filepath.Join(root, "sotto-missing.slice", "a.service")}}}
	if escapes, unknown := leavable(m); len(escapes) > 0 || unknown != nil {
		t.Errorf("%q, %v", escapes, unknown)
	}
}

func TestStrictLinks(t *testing.T) {
	links := []net.Interface{
		{Name: "lo", Flags: net.FlagUp | net.FlagLoopback}, {Name: "eth0", Flags: net.FlagUp}, {Name: "eth1", Flags: net.FlagUp},
		{Name: "down", Flags: 0}, {Name: "sotto0", Flags: net.FlagUp},
	}
	for _, c := range []struct {
		filters map[string]int
		want    []string
	}{
		{map[string]int{}, nil},
		{map[string]int{"all": 1}, []string{"eth0", "eth1"}},
		{map[string]int{"all": 1, "eth0": 2}, []string{"eth1"}},
		{map[string]int{"all": 2, "eth0": 1}, nil},
		{map[string]int{"eth1": 1, "down": 1, "lo": 1, "sotto0": 1}, []string{"eth1"}},
	} {
		if got := strictLinks(links, func(link string) int { return c.filters[link] }); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.filters, got, c.want)
		}
	}
}

func TestHostsServices(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                  nil,
		"passwd: files\nhosts: files dns\n": {"files", "dns"},
		"hosts:files  mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns": {"files", "mdns4_minimal", "resolve", "dns"},
		" hosts: dns # resolve\n#hosts: resolve\n":                                   {"dns"},
		"hosts: dns [broken": {"dns"},
	} {
		if got := hostsServices(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestJudgePaths(t *testing.T) {
	sealed := func(cgroup string) bool { return cgroup == "/sealed" }
	is(t, "none", judgePaths("x", nil, sealed), OK, "none", "")
	is(t, "sealed", judgePaths("x", []lookupPath{{by: "nscd", cgroup: "/sealed"}}, sealed), OK, "nscd: the seal covers", "")
	is(t, "other", judgePaths("x", []lookupPath{{socket: "/s", by: "nscd", cgroup: "/other"}}, sealed), Warning, "nscd (/s, of the cgroup /other)", "stop nscd")
	is(t, "unknown", judgePaths("x", []lookupPath{{socket: "/s", by: "nscd"}}, sealed), Warning, "nscd (/s, of an unknown process)", "stop nscd")
}

func TestDescribeServers(t *testing.T) {
	servers := []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr("9.9.9.9")}
	for mode, want := range map[intercept.LocalMode]string{
		intercept.LocalKeep:     "nameservers 127.0.0.53 (on this machine, left alone), 9.9.9.9",
		intercept.LocalRedirect: "nameservers 127.0.0.53 (on this machine, redirected), 9.9.9.9",
	} {
		if got := describeServers(servers, mode); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestJudgeInstances(t *testing.T) {
	is(t, "none", judgeInstances("x", nil), OK, "none", "")
	is(t, "a command", judgeInstances("x", []intercept.State{{Name: "sotto-1", Running: true}}), OK, "none", "")
	is(t, "running", judgeInstances("x", []intercept.State{{Name: daemon.InstanceName, PID: 7, Running: true}}), Warning, "process 7", "kill 7")
	is(t, "killed", judgeInstances("x", []intercept.State{{Name: daemon.InstanceName, PID: 7, Cgroups: []string{"/a"}}}), Failed, "queries of /a fail", "sotto down")
}

func TestDescribeRunning(t *testing.T) {
	is(t, "starting", describeRunning("x", &status.Status{Version: "v1", PID: 7}), Warning, "v1, process 7, does not answer queries yet", "wait")
	is(t, "stopping", describeRunning("x", &status.Status{Version: "v1", PID: 7, Stopping: true}), Warning, "v1, process 7, was stopped", "check again")
	is(t, "ready", describeRunning("x", &status.Status{Version: "v1", PID: 7, Ready: true}), OK, "v1, process 7, forwards", "")
}

func TestJudgeClock(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	is(t, "right", judgeClock("x", now, time.Time{}, true, nil), OK, "2026-01-02 03:04 UTC, synchronized", "")
	is(t, "alone", judgeClock("x", now, now.Add(-time.Hour), false, nil), OK, "not synchronized", "")
	is(t, "before the build", judgeClock("x", now, now.Add(48*time.Hour), true, nil), Failed, "before this program was built (2026-01-04)", "timedatectl")
	is(t, "certificates", judgeClock("x", now, time.Time{}, true, []string{"a", "b"}), Warning, "not valid at this time: a, b", "if this is not the time")
}

func TestJudgeServer(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	good := serverReport{group: "default", server: "192.0.2.1:853", took: 1234567}
	good.stats.CertExpiry = now
	is(t, "good", judgeServer(&good, true, now), OK, "answered in 1.2ms, certificate valid until 2026-01-02", "")
	refuses := serverReport{group: "corp", server: "192.0.2.1:853", rcode: 5}
	is(t, "REFUSED", judgeServer(&refuses, false, now), Failed, "it answers REFUSED", "ask its operator")
	if got := judgeServer(&refuses, true, now); got.State != Warning || got.Name != "upstream 192.0.2.1:853 of group corp" {
		t.Errorf("next to one that works: %+v", got)
	}
	untrusted := serverReport{group: "default", stats: upstream.ServerStats{}}
	untrusted.stats.Unauthenticated = "its key"
	is(t, "opportunistic", judgeServer(&untrusted, true, now), Warning, "not authenticated: its key", "strict")
	lost := serverReport{group: "default", err: &upstream.Error{Server: "192.0.2.1:853", Reason: "no answer"}}
	if got := judgeServer(&lost, false, now); got.Detail != "no answer" {
		t.Errorf("an error: %+v", got)
	}
	if (&serverReport{err: errors.New("x")}).works() || !(&serverReport{rcode: 3}).works() {
		t.Error("works is wrong")
	}
}

func TestOriginals(t *testing.T) {
	got := originals(map[string]config.Group{"a": {Original: &config.Original{Fallback: "default"}}, "b": {Original: &config.Original{}}, "default": {}})
	if len(got) != 2 || got[0].Name != "upstream original of group a" || !strings.HasSuffix(got[0].Detail, "go to the group default") || !strings.HasSuffix(got[1].Detail, "fail") {
		t.Errorf("%+v", got)
	}
}

func TestJudgeChains(t *testing.T) {
	drop := []filters.Chain{{Family: "inet", Table: "t", Name: "in", Hook: filters.Input, PolicyDrop: true}}
	rules := []filters.Chain{{Family: "ip", Table: "t", Name: "out", Hook: filters.Output}, {Family: "ip", Table: "t", Name: "forward", Hook: filters.Forward, PolicyDrop: true}}
	fix := `nft insert rule inet t in iifname "sotto*" accept`
	is(t, "none", judgeChains("x", nil, pathUnknown), OK, "no filter", "")
	is(t, "passed", judgeChains("x", drop, pathWorks), OK, "the sealed query passed", "")
	is(t, "lost", judgeChains("x", drop, pathBroken), Failed, "nftables chain inet t in (policy drop)", fix)
	is(t, "lost by a rule", judgeChains("x", rules, pathBroken), Failed, "nftables chain ip t out (has rules that drop)", `out oifname "sotto*"`)
	is(t, "lost, but no chain", judgeChains("x", nil, pathBroken), Warning, "no filter of nftables drops", "iptables-legacy")
	is(t, "unknown", judgeChains("x", drop, pathUnknown), Warning, "may drop", fix)
	is(t, "unknown rules", judgeChains("x", rules, pathUnknown), OK, "", "")
}

func TestFilteredUnits(t *testing.T) {
	got := filteredUnits([]others.Program{
		{Cgroup: "/c/a.service", Name: "sd_fw_egress"}, {Cgroup: "/c/a.service", Name: "sd_fw_ingress"},
		{Cgroup: "/c/systemd-logind.service", Name: "sd_fw_egress"}, {Cgroup: "/c/b.service", Name: "other"},
		{Cgroup: "/c/c.service", Name: "sd_restrictif_e"},
	})
	if want := []string{"a.service", "c.service"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestDescribePrograms(t *testing.T) {
	got := describePrograms([]others.Program{
		{Cgroup: "/c", Hook: "connect4", Name: "p", ID: 1}, {Cgroup: "/c", Hook: "connect6", Name: "q", ID: 2},
		{Cgroup: "/c", Hook: "sendmsg4", Name: "p", ID: 1}, {Cgroup: "/c", Hook: "connect4", Name: "p", ID: 1},
	})
	if want := `"p" (ID 1) on the cgroup /c at connect4, sendmsg4; "q" (ID 2) on the cgroup /c at connect6`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := list([]string{"1", "2", "3", "4", "5", "6"}, ", "); got != "1, 2, 3, 4, and 2 more" {
		t.Error(got)
	}
}

// TestExamine checks which packets count as leaks.
func TestExamine(t *testing.T) {
	all := []question{{"udp", nameserver4, "a.sotto-check.invalid"}, {"tcp", nameserver6, "b.sotto-check.invalid"}}
	packet := func(src, dst, payload string) capture.Packet {
		return capture.Packet{Protocol: 17, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Payload: []byte(payload)}
	}
	const nameA, nameB = "\x01a\x0bsotto-check\x07invalid\x00", "\x01b\x0bsotto-check\x07invalid\x00"
	sealed := []capture.Packet{
		packet("10.0.0.2:1", "198.18.1.7:53", nameA), packet("198.18.1.7:53", "10.0.0.2:1", nameA),
		packet("[fd00::2]:1", "[fd73:6f74:746f:1::7]:53", nameB),
		packet("10.0.0.2:2", "9.9.9.9:853", "\x17\x03\x03"), packet("10.0.0.3:1", "8.8.8.8:53", "\x07another\x00"),
	}
	if e := examine(sealed, all); e.redirected != 2 || len(e.plain) != 0 || e.packets != 5 {
		t.Errorf("sealed: %+v", e)
	}
	for what, p := range map[string]capture.Packet{
		"to the nameserver":      packet("10.0.0.2:1", "192.0.2.53:53", ""),
		"from the nameserver":    packet("[2001:db8::53]:53", "[fd00::2]:1", ""),
		"to another one":         packet("10.0.0.2:1", "8.8.8.8:53", nameA),
		"on another port":        packet("10.0.0.2:1", "8.8.8.8:5353", nameB),
		"to a prefix of no seal": packet("10.0.0.2:1", "10.99.0.7:53", nameA),
	} {
		if e := examine(append(sealed, p), all); !reflect.DeepEqual(e.plain, []capture.Packet{p}) {
			t.Errorf("%s: %+v", what, e)
		}
	}
	if e := examine([]capture.Packet{packet("10.0.0.2:1", "10.99.0.7:53", nameA)}, all, netip.Prefix{}, netip.MustParsePrefix("10.99.0.0/16")); len(e.plain) != 0 || e.redirected != 1 {
		t.Errorf("a configured prefix: %+v", e)
	}
}

func TestJudgeQuery(t *testing.T) {
	q := question{"udp", nameserver4, "a"}
	good := []answer{{Question: q, Rcode: 3, Took: 2 * time.Millisecond}, {Question: question{"tcp", nameserver6, "b"}}}
	is(t, "good", judgeQuery("x", good, evidence{packets: 7, redirected: 2}), OK, "udp4, tcp6 answered within 2ms, nothing in the clear in 7 captured packets", "")
	is(t, "leak", judgeQuery("x", good, evidence{redirected: 2, plain: make([]capture.Packet, 3)}), Failed, "3 packets left in the clear", "plain")
	is(t, "blind", judgeQuery("x", good, evidence{redirected: 1}), Failed, "saw only 1 of 2", "")
	lost := []answer{{Question: q, Err: "i/o timeout"}}
	is(t, "lost", judgeQuery("x", lost, evidence{}), Failed, "no answer to udp4: i/o timeout", "firewall")
	refused := []answer{{Question: q, Rcode: 2, Text: "no upstream"}}
	is(t, "refused", judgeQuery("x", refused, evidence{redirected: 1}), Failed, "udp4: SERVFAIL (no upstream)", "upstreams")
	if pathOf(good) != pathWorks || pathOf(refused) != pathWorks || pathOf(lost) != pathBroken {
		t.Error("pathOf is wrong")
	}
}

// TestInterrupted checks that an interrupted check reports nothing that it did not find.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("interrupted")
	cancel(cause)
	o := Options{} // a check would panic
	_, err := Run(ctx, o, func(r Result) { t.Errorf("reported %+v", r) })
	if !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}

// TestClient checks the client against a nameserver that answers only the second question.
func TestClient(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			buf[2] |= 0x80 // QR
			buf[3] = 5     // REFUSED
			buf[11] = 0    // without OPT
			_, _ = pc.WriteTo(buf[:n-11], from)
		}
	}()
	addr := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	l, err := net.Listen("tcp", "127.0.0.1:0") // to have a port without a listener
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := askEach(t.Context(), []question{{"tcp", closed, "a.example"}, {"udp", addr, "b.example"}, {"udp", addr, "..bad"}})
	if got[0].replied() || !strings.Contains(got[0].Err, "refused") {
		t.Errorf("no listener: %+v", got[0])
	}
	if !got[1].replied() || got[1].Rcode != 5 || got[1].works() {
		t.Errorf("REFUSED: %+v", got[1])
	}
	if got[2].replied() {
		t.Errorf("an invalid name: %+v", got[2])
	}
	if err := Client(t.Context(), strings.NewReader("x"), &bytes.Buffer{}); err == nil {
		t.Error("no error for questions that are not JSON")
	}
}

// TestAlone: a server whose name has to be resolved is checked with those that resolve it.
func TestAlone(t *testing.T) {
	servers, err := address.Parse("quad9")
	if err != nil {
		t.Fatal(err)
	}
	named, err := address.Parse("quic://dns.example")
	if err != nil {
		t.Fatal(err)
	}
	boot, err := address.Parse("192.0.2.1#dns.example")
	if err != nil {
		t.Fatal(err)
	}
	all := upstream.Config{Servers: append(named, servers...)}
	for i, s := range all.Servers {
		cfg := alone(all, s)
		if want := []int{len(servers), 0, 0}[i]; len(cfg.Bootstrap) != want || len(cfg.Servers) != 1 {
			t.Errorf("%s: %d servers resolve its name, want %d", s, len(cfg.Bootstrap), want)
		}
		if g, err := upstream.New(cfg); err != nil {
			t.Errorf("%s: %v", s, err)
		} else if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	if cfg := alone(upstream.Config{Servers: all.Servers, Bootstrap: boot}, named[0]); len(cfg.Bootstrap) != 1 {
		t.Errorf("%d servers resolve its name, want the one under bootstrap", len(cfg.Bootstrap))
	}
}
