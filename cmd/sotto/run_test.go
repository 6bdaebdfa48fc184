// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

func spkiPin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

// runArgs returns the command line of a `run` that seals the cgroups.
func (w *world) runArgs(groups ...*netlab.Cgroup) []string {
	args := append([]string{"run", "--log-queries"}, w.upstreamArgs()...)
	for _, g := range groups {
		args = append(args, "--cgroup", g.Path)
	}
	return args
}

// cgroup makes a cgroup that is removed with the world.
func (w *world) cgroup(name string) *netlab.Cgroup {
	w.t.Helper()
	g, err := w.lab.Cgroup(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// dig runs dig in a host and a cgroup and returns its output.
func (w *world) dig(h *netlab.Host, g *netlab.Cgroup, args ...string) string {
	w.t.Helper()
	out, err := h.Command(w.t.Context(), g, labtest.NeedTool(w.t, "dig"), append([]string{"+tries=1", "+timeout=4"}, args...)...).CombinedOutput()
	if err != nil {
		return err.Error() + "\n" + string(out)
	}
	return string(out)
}

// Patterns of the namespaces of `run` and `exec`, and of their links, routes and tables.
// Those of other tests do not match.
var (
	instanceName = regexp.MustCompile(`^sotto(-[0-9]+)?$`)
	madeBySotto  = regexp.MustCompile(`\bsotto[0-9]+\b|\bsotto\S*_nat\b|\b198\.1[89]\.|fd73:6f74`)
)

// nothingLeft fails the test if state of Sotto is left in this world or on this machine.
func (w *world) nothingLeft() {
	w.t.Helper()
	names, err := netns.Names()
	if err != nil {
		w.t.Error(err)
	}
	for _, n := range names {
		if instanceName.MatchString(n) {
			w.t.Errorf("namespace %s is left", n)
		}
	}
	for what, args := range map[string][]string{
		"link": {"ip", "-o", "link"}, "route": {"ip", "route"}, "route ": {"ip", "-6", "route"}, "table": {"nft", "list", "tables"},
	} {
		out, err := w.host.Command(w.t.Context(), nil, args[0], args[1:]...).CombinedOutput()
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			w.t.Errorf("%v: %v", args, err)
		}
		for line := range strings.Lines(string(out)) {
			if madeBySotto.MatchString(line) {
				w.t.Errorf("%s left: %s", what, line)
			}
		}
	}
	root, err := netlab.CgroupRoot()
	if err != nil {
		w.t.Fatal(err)
	}
	patterns := []string{"/sys/fs/bpf/sotto/*", "/run/sotto/*.lock", "/run/sotto/*.sock"}
	for _, pid := range w.pids { // cgroups may be shared with other mount namespaces
		patterns = append(patterns, fmt.Sprintf("%s/sotto-exec-%d", root, pid))
	}
	for _, pattern := range patterns {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			w.t.Errorf("left: %v, %v", left, err)
		}
	}
}

// TestRun seals cgroups: all processes in and below them, on the host and in containers behind
// a masquerading bridge, and no others. The listener distinguishes workloads and nameservers.
func TestRun(t *testing.T) {
	w := newWorld(t)
	containers := labtest.Containers(t, w.lab, w.host, "one", "two")
	a, b, free := w.cgroup("a"), w.cgroup("b"), w.cgroup("free")
	below, err := w.lab.Below(a, "below")
	if err != nil {
		t.Fatal(err)
	}
	excluded, err := w.lab.Below(a, "excluded")
	if err != nil {
		t.Fatal(err)
	}
	p := w.start("sealed", append(w.runArgs(a, b), "--exclude", excluded.Path)...)
	for _, tc := range []struct {
		name   string
		h      *netlab.Host
		g      *netlab.Cgroup
		server string
		query  string
		want   string
	}{
		{"on the host", w.host, a, "8.8.8.8", "h1.example", sealed4},
		{"on the host, IPv6", w.host, a, "2001:db8::53", "h2.example", sealed4},
		{"below", w.host, below, "1.1.1.1", "h3.example", sealed4},
		{"container one", containers[0], a, "8.8.8.8", "c1.example", sealed4},
		{"container one, IPv6", containers[0], a, "2001:db8::54", "c2.example", sealed4},
		{"container two", containers[1], b, "8.8.8.8", "c3.example", sealed4},
		{"excluded", w.host, excluded, "8.8.8.8", "x1.example", plain4},
		{"outside", w.host, free, "8.8.8.8", "x2.example", plain4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, proto := range []string{"+notcp", "+tcp"} {
				out := w.dig(tc.h, tc.g, proto, "@"+tc.server, tc.query)
				if !strings.Contains(out, tc.want) || !strings.Contains(out, "SERVER: "+tc.server+"#53") {
					t.Errorf("%s: no %s from %s in\n%s", proto, tc.want, tc.server, out)
				}
			}
			logged := func() bool {
				for line := range strings.Lines(p.log()) {
					if strings.Contains(line, "name="+tc.query) && strings.Contains(line, tc.server) && strings.Contains(line, filepath.Base(tc.g.Path)) {
						return true
					}
				}
				return false
			}
			if tc.want == sealed4 {
				w.until("the workload and the nameserver in the log", logged)
			} else if strings.Contains(p.log(), tc.query) {
				t.Errorf("%s was intercepted", tc.query)
			}
		})
	}
	w.stop(p)
	if out := w.dig(w.host, a, "@8.8.8.8", "after.example"); !strings.Contains(out, plain4) {
		t.Errorf("still sealed after a clean stop:\n%s", out)
	}
	w.nothingLeft()
}

// TestRunClients runs the clients of exec's tests in a container behind a masquerading bridge
// whose cgroup `run` seals.
func TestRunClients(t *testing.T) {
	w := newWorld(t)
	container := labtest.Containers(t, w.lab, w.host, "one")[0]
	g := w.cgroup("container")
	p := w.start("sealed", w.runArgs(g)...)
	w.watch()
	run := func(args ...string) (string, string, int) {
		t.Helper()
		cmd := container.Command(t.Context(), g, args[0], args[1:]...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Logf("%v: %v", args, err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	runRealClients(t, run)
	for _, tc := range socketClients {
		t.Run(strings.Join(tc, " "), func(t *testing.T) {
			if stdout, stderr, status := run(client(tc[0], tc[1:]...)...); status != 0 || stdout != "ok\n" {
				t.Errorf("status %d: %s%s", status, stdout, stderr)
			}
		})
	}
	for _, nameservers := range [][]string{{"8.8.8.8"}, {"2001:db8::53", "9.9.9.9"}} {
		t.Run("libraries "+strings.Join(nameservers, " "), func(t *testing.T) {
			conf := w.resolvConf(nameservers...)
			stdout, stderr, status := run(append(conf, client("go-lookups")...)...)
			if status != 0 || stdout != "ok\n" {
				t.Errorf("Go: status %d: %s%s", status, stdout, stderr)
			}
			stdout, stderr, status = run(append(conf, "getent", "ahosts", "libc.example.com")...)
			if status != 0 || !strings.Contains(stdout, sealed4) || !strings.Contains(stdout, sealed6) {
				t.Errorf("getent: status %d: %s%s", status, stdout, stderr)
			}
		})
	}
	w.stop(p)
	w.nothingLeft()
}

// TestSlotQuota checks that a workload gets no slots over its quota, and that others still
// resolve.
func TestSlotQuota(t *testing.T) {
	w := newWorld(t)
	w.watch()
	greedy, modest := w.cgroup("greedy"), w.cgroup("modest")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	write(t, config, "prefix4 = \"198.19.4.0/24\"\n") // 251 slots
	p := w.start("sealed", append(w.runArgs(greedy, modest), "--config", config)...)
	hog := w.host.Command(t.Context(), greedy, executable())
	hog.Env = append(os.Environ(), selfEnv+"=dial-unused")
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
	if out := w.dig(w.host, modest, "+short", "@8.8.8.8", "modest.example"); !strings.Contains(out, sealed4) {
		t.Errorf("the other workload does not resolve:\n%s", out)
	}
	if out := w.dig(w.host, greedy, "+short", "@8.8.8.8", "greedy.example"); strings.Contains(out, sealed4) || strings.Contains(out, plain4) {
		t.Errorf("over its quota it still gets slots:\n%s", out)
	}
	if err := errors.Join(stdin.Close(), hog.Wait()); err != nil {
		t.Errorf("the greedy workload: %v", err)
	}
	if out := w.dig(w.host, greedy, "+short", "@8.8.8.8", "greedy.example"); !strings.Contains(out, sealed4) {
		t.Errorf("its slots were not released:\n%s", out)
	}
	w.stop(p)
	w.nothingLeft()
}

// TestExecInsideRun checks that exec inside a sealed cgroup seals its command itself.
func TestExecInsideRun(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("outer")
	p := w.start("sealed", w.runArgs(g)...)
	cmd := w.self(t.Context(), "sotto", append(append([]string{"exec"}, w.upstreamArgs()...), "--", "dig", "+short", "@8.8.8.8", "inner.example")...)
	cmd.SysProcAttr = w.host.Command(t.Context(), g, "true").SysProcAttr
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != sealed4+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if strings.Contains(p.log(), "inner.example") {
		t.Error("the outer seal answered a query of the inner one")
	}
	if out := w.dig(w.host, g, "@8.8.8.8", "outer.example"); !strings.Contains(out, sealed4) {
		t.Errorf("the outer seal no longer answers:\n%s", out)
	}
	w.stop(p)
	w.nothingLeft()
}

// TestKilled checks that after kill -9 queries fail and none is sent in plain DNS, that the
// next start adopts the leftovers, and that `down` removes them.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	answered := func() bool { return strings.Contains(w.dig(w.host, g, "+short", "@8.8.8.8", "a.example"), sealed4) }
	p := w.start("sealed", w.runArgs(g)...)
	if !answered() {
		t.Fatal("not answered")
	}
	if _, stderr, status := w.sotto("down"); status == 0 || !strings.Contains(stderr, "sotto") {
		t.Errorf("down while it runs: status %d, %q: want an error that names the instance", status, stderr)
	}
	if !answered() {
		t.Error("down broke the seal of a running daemon")
	}
	w.kill(p)
	for _, server := range []string{"8.8.8.8", "1.2.3.4", "2001:db8::53"} {
		if out := w.dig(w.host, g, "+timeout=1", "@"+server, "dead.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("after kill -9 %s answered:\n%s", server, out)
		}
	}
	p = w.start("sealed", w.runArgs(g)...)
	if !answered() {
		t.Error("not answered after a restart")
	}
	w.kill(p)
	if _, stderr, status := w.sotto("down"); status != 0 {
		t.Errorf("down: status %d, %q", status, stderr)
	}
	w.nothingLeft()
}

// TestExecKilled checks that after kill -9 of exec the queries of its command fail, and that
// the next exec or `down` removes the leftovers.
func TestExecKilled(t *testing.T) {
	w := newWorld(t)
	w.watch()
	dig := labtest.NeedTool(t, "dig")
	out := filepath.Join(t.TempDir(), "out")
	script := "echo ready; while :; do " + dig + " +short +tries=1 +timeout=1 @8.8.8.8 k.example >>" + out + " 2>&1; sleep 0.05; done"
	p := w.start("ready", append(append([]string{"exec"}, w.upstreamArgs()...), "--", "sh", "-c", script)...)
	read := func() string { b, _ := os.ReadFile(out); return string(b) }
	w.until("the command to resolve", func() bool { return strings.Contains(read(), sealed4) })
	w.kill(p)
	before := strings.Count(read(), sealed4)
	w.until("its queries to fail", func() bool {
		return strings.Contains(read(), "timed out") || strings.Contains(read(), "no servers") || strings.Contains(read(), "error")
	})
	if n := strings.Count(read(), sealed4); n > before+1 { // one may have been in flight
		t.Errorf("%d answers after Sotto was killed", n-before)
	}
	if stdout, stderr, status := w.exec(dig, "+short", "@8.8.8.8", "again.example"); status != 0 || stdout != sealed4+"\n" {
		t.Errorf("the next exec: status %d, %q %q", status, stdout, stderr)
	}
	if _, stderr, status := w.sotto("down"); status != 0 {
		t.Errorf("down: status %d, %q", status, stderr)
	}
	w.nothingLeft()
}

// TestRepair deletes the link, the namespace or a route. Queries fail closed meanwhile, and
// soon resolve again.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	p := w.start("sealed", w.runArgs(g)...)
	answered := func() bool {
		return strings.Contains(w.dig(w.host, g, "+short", "+timeout=1", "@8.8.8.8", "a.example"), sealed4)
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
			if out, err := w.host.Command(t.Context(), nil, "ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, out)
			}
			start := time.Now()
			w.until("an answer", repaired)
			t.Logf("repaired after %v", time.Since(start).Round(10*time.Millisecond))
		})
	}
	w.stop(p)
	w.nothingLeft()
}
