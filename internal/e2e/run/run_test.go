// SPDX-License-Identifier: Apache-2.0

package run

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// TestRun seals cgroups: all processes in and below them, on the host and in containers behind
// a masquerading bridge, and no others. The listener distinguishes workloads and nameservers.
func TestRun(t *testing.T) {
	w := newWorld(t)
	containers := labtest.Containers(t, w.Lab, w.Host, "one", "two")
	a, b, free := w.Cgroup("a"), w.Cgroup("b"), w.Cgroup("free")
	below, err := w.Lab.Below(a, "below")
	if err != nil {
		t.Fatal(err)
	}
	excluded, err := w.Lab.Below(a, "excluded")
	if err != nil {
		t.Fatal(err)
	}
	p := w.Start("msg=sealed", append(w.RunArgs(a, b), "--exclude", excluded.Path, "--log-queries")...)
	for _, tc := range []struct {
		name   string
		h      *netlab.Host
		g      *netlab.Cgroup
		server string
		query  string
		want   string
	}{
		{"on the host", w.Host, a, "8.8.8.8", "h1.example", e2e.Sealed4},
		{"on the host, IPv6", w.Host, a, "2001:db8::53", "h2.example", e2e.Sealed4},
		{"below", w.Host, below, "1.1.1.1", "h3.example", e2e.Sealed4},
		{"container one", containers[0], a, "8.8.8.8", "c1.example", e2e.Sealed4},
		{"container one, IPv6", containers[0], a, "2001:db8::54", "c2.example", e2e.Sealed4},
		{"container two", containers[1], b, "8.8.8.8", "c3.example", e2e.Sealed4},
		{"excluded", w.Host, excluded, "8.8.8.8", "x1.example", e2e.Plain4},
		{"outside", w.Host, free, "8.8.8.8", "x2.example", e2e.Plain4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, proto := range []string{"+notcp", "+tcp"} {
				out := w.Dig(tc.h, tc.g, proto, "@"+tc.server, tc.query)
				if !strings.Contains(out, tc.want) || !strings.Contains(out, "SERVER: "+tc.server+"#53") {
					t.Errorf("%s: no %s from %s in\n%s", proto, tc.want, tc.server, out)
				}
			}
			logged := func() bool {
				for line := range strings.Lines(p.Log()) {
					if strings.Contains(line, "name="+tc.query) && strings.Contains(line, tc.server) && strings.Contains(line, filepath.Base(tc.g.Path)) {
						return true
					}
				}
				return false
			}
			if tc.want == e2e.Sealed4 {
				w.Until("the workload and the nameserver in the log", logged)
			} else if strings.Contains(p.Log(), tc.query) {
				t.Errorf("%s was intercepted", tc.query)
			}
		})
	}
	w.Stop(p)
	if out := w.Dig(w.Host, a, "@8.8.8.8", "after.example"); !strings.Contains(out, e2e.Plain4) {
		t.Errorf("still sealed after a clean stop:\n%s", out)
	}
	w.NothingLeft()
}

// TestSlotQuota checks that a workload gets no slots over its quota, and that others still
// resolve.
func TestSlotQuota(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	greedy, modest := w.Cgroup("greedy"), w.Cgroup("modest")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "prefix4 = \"198.19.4.0/24\"\n") // 251 slots
	p := w.Start("msg=sealed", append(w.RunArgs(greedy, modest), "--config", config)...)
	line := e2e.Client("dial-unused")
	hog := w.Host.Command(t.Context(), greedy, line[0], line[1:]...)
	stdin, err := hog.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := hog.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hog.Start(); err != nil {
		t.Fatal(err)
	}
	var held int
	if _, err := fmt.Fscanf(stdout, "holding %d\n", &held); err != nil || held == 0 || held >= 251 {
		t.Errorf("the greedy workload holds %d slots of 251, %v", held, err)
	}
	if out := w.Dig(w.Host, modest, "+short", "@8.8.8.8", "modest.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("the other workload does not resolve:\n%s", out)
	}
	if out := w.Dig(w.Host, greedy, "+short", "@8.8.8.8", "greedy.example"); strings.Contains(out, e2e.Sealed4) || strings.Contains(out, e2e.Plain4) {
		t.Errorf("over its quota it still gets slots:\n%s", out)
	}
	if err := errors.Join(stdin.Close(), hog.Wait()); err != nil {
		t.Errorf("the greedy workload: %v", err)
	}
	if out := w.Dig(w.Host, greedy, "+short", "@8.8.8.8", "greedy.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("its slots were not released:\n%s", out)
	}
	w.Stop(p)
	w.NothingLeft()
}

// TestKilled checks that after kill -9 queries fail and none is sent in plain DNS, that the
// next start adopts the leftovers, and that `down` removes them.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	answered := func() bool { return strings.Contains(w.Dig(w.Host, g, "+short", "@8.8.8.8", "a.example"), e2e.Sealed4) }
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	if !answered() {
		t.Fatal("not answered")
	}
	if _, stderr, status := w.Sotto("down"); status == 0 || !strings.Contains(stderr, "sotto") {
		t.Errorf("down while it runs: status %d, %q: want an error that names the instance", status, stderr)
	}
	if !answered() {
		t.Error("down broke the seal of a running daemon")
	}
	w.Kill(p)
	for _, server := range []string{"8.8.8.8", "1.2.3.4", "2001:db8::53"} {
		if out := w.Dig(w.Host, g, "+timeout=1", "@"+server, "dead.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("after kill -9 %s answered:\n%s", server, out)
		}
	}
	p = w.Start("msg=sealed", w.RunArgs(g)...)
	if !answered() {
		t.Error("not answered after a restart")
	}
	w.Kill(p)
	if _, stderr, status := w.Sotto("down"); status != 0 {
		t.Errorf("down: status %d, %q", status, stderr)
	}
	w.NothingLeft()
}

// TestRepair deletes the link, the namespace or a route. Queries fail closed meanwhile, and
// soon resolve again.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	answered := func() bool {
		return strings.Contains(w.Dig(w.Host, g, "+short", "+timeout=1", "@8.8.8.8", "a.example"), e2e.Sealed4)
	}
	if !answered() {
		t.Fatal("not answered")
	}
	repaired := func() bool { // sockets in the namespace also work while it has no name
		ns, err := netns.Open("sotto")
		return err == nil && ns.Close() == nil && answered()
	}
	for _, args := range [][]string{
		{"link", "del", "sotto0"},
		{"link", "set", "sotto0", "down"},
		{"route", "del", "198.19.0.0/16", "dev", "sotto0"},
		{"netns", "del", "sotto"},
		{"-n", "sotto", "link", "del", "sotto1"},
		{"-n", "sotto", "route", "flush", "table", "local"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			if out, err := w.Host.Command(t.Context(), nil, "ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, out)
			}
			start := time.Now()
			w.Until("an answer", repaired)
			t.Logf("repaired after %v", time.Since(start).Round(10*time.Millisecond))
		})
	}
	w.Stop(p)
	w.NothingLeft()
}
