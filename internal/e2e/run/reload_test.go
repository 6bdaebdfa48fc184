// SPDX-License-Identifier: Apache-2.0

package run

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
)

// TestRunReload checks that `sotto reload` and SIGHUP load another configuration without a
// change of the seal, and that settings that need a restart are refused.
func TestRunReload(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	base := fmt.Sprintf("upstream = [%q]\nca-file = %q\n", e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile)
	refuse := base + fmt.Sprintf("[[rule]]\nworkload = \"**/%s\"\nname = \"no.example\"\nuse = \"refuse\"\n", filepath.Base(g.Path))
	e2e.WriteFile(t, config, base)
	p := w.Start("msg=sealed", "run", "--config", config, "--cgroup", g.Path)
	asked := 0
	check := func(what, want string) {
		t.Helper()
		asked++
		if out := w.Dig(w.Host, g, "@8.8.8.8", fmt.Sprintf("n%d.no.example", asked)); !strings.Contains(out, want) {
			t.Errorf("%s: no %s in\n%s", what, want, out)
		}
	}
	check("at the start", e2e.Sealed4)

	e2e.WriteFile(t, config, refuse)
	if stdout, stderr, status := w.Sotto("reload"); status != 0 || stdout != "reloaded\n" {
		t.Errorf("reload: status %d, %q, %q", status, stdout, stderr)
	}
	check("with a rule for the workload", "status: REFUSED")

	e2e.WriteFile(t, config, base+"prefix4 = \"198.19.4.0/24\"\n")
	if _, stderr, status := w.Sotto("reload"); status != e2e.ExitFailure || !strings.Contains(stderr, config+":3:11: prefix4: it changed") {
		t.Errorf("reload with another prefix: status %d, %q", status, stderr)
	}
	check("after a refused configuration", "status: REFUSED")

	e2e.WriteFile(t, config, base)
	before := strings.Count(p.Log(), "msg=reloaded")
	if err := p.Cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.Until("SIGHUP to reload", func() bool { return strings.Count(p.Log(), "msg=reloaded") > before })
	check("after SIGHUP", e2e.Sealed4)

	if _, stderr, status := w.Sotto("serve", "--control", e2e.ControlSocket, "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"); status != e2e.ExitFailure || !strings.Contains(stderr, "a running Sotto listens there") {
		t.Errorf("another at the same socket: status %d, %q", status, stderr)
	}
	w.Kill(p)
	if _, err := os.Lstat(e2e.ControlSocket); err != nil {
		t.Errorf("a killed one's socket: %v", err)
	}
	p = w.Start("msg=sealed", "run", "--config", config, "--cgroup", g.Path)
	if _, stderr, status := w.Sotto("reload", "--config", config); status != 0 {
		t.Errorf("reload after a crash: status %d, %q", status, stderr)
	}
	w.Stop(p)
	if _, err := os.Lstat(e2e.ControlSocket); !os.IsNotExist(err) {
		t.Errorf("after a clean stop the control socket is left: %v", err)
	}
	w.NothingLeft()
}

// TestRunPlain checks that queries that a rule with use = "plain" selects are sent to the
// original destination, in plain DNS, over UDP and TCP, and no others.
func TestRunPlain(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "[[rule]]\nname = \"home.example\"\nnameserver = [\"8.8.8.8\", \"2001:db8::/32\"]\nuse = \"plain\"\n")
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--config", config)...)
	for _, tc := range []struct{ server, name, want string }{
		{"8.8.8.8", "printer.home.example", e2e.Plain4},
		{"2001:db8::53", "printer.home.example", e2e.Plain4},
		{"1.1.1.1", "printer.home.example", e2e.Sealed4},
		{"8.8.8.8", "www.example", e2e.Sealed4},
	} {
		for _, proto := range []string{"+notcp", "+tcp"} {
			out := w.Dig(w.Host, g, proto, "@"+tc.server, tc.name)
			if !strings.Contains(out, tc.want) || !strings.Contains(out, "SERVER: "+tc.server+"#53") {
				t.Errorf("%s at %s, %s: no %s in\n%s", tc.name, tc.server, proto, tc.want, out)
			}
		}
	}
	w.Stop(p)
	w.NothingLeft()
}
