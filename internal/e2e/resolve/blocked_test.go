// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
)

// stub is a program that resolves the name in its last argument, in both families.
type stub struct {
	name    string
	args    []string
	queries int // for a name that is answered
}

// stubs returns the stub resolvers that this machine has. Those of the C libraries and of Go
// are required, Java is not.
func stubs(t *testing.T) []stub {
	t.Helper()
	list := []stub{
		{"glibc", []string{build(t, "libc.c", "gcc")}, 2},
		{"getent", []string{"getent", "ahosts"}, 2},
		// It asks both nameservers at the same time.
		{"musl", []string{build(t, "libc.c", "musl-gcc", "-static")}, 4},
		{"go", append([]string{"env", "GODEBUG=netdns=go"}, e2e.Client("go-lookup")...), 2},
		{"go-cgo", append([]string{"env", "GODEBUG=netdns=cgo"}, e2e.Client("go-lookup")...), 2},
	}
	javac, err := exec.LookPath("javac")
	if err != nil {
		t.Log("without Java: javac is not installed")
		return list
	}
	dir := t.TempDir()
	if out, err := exec.Command(javac, "-d", dir, filepath.Join("testdata", "Lookup.java")).CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return append(list, stub{"java", []string{"java", "-XX:TieredStopAtLevel=1", "-cp", dir, "Lookup"}, 2})
}

// TestBlockedClients counts the queries of real stub resolvers for a blocked name. With
// NXDOMAIN, null addresses and NODATA each queries once per family, although its resolv.conf
// has two nameservers (musl asks both at once); REFUSED makes it ask again. The log of the test has the table of
// docs/OPERATING.md.
func TestBlockedClients(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("blocked")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	actions := []string{"nxdomain", "null", "nodata", "refuse"}
	text := ""
	for _, action := range actions {
		text += "[[rule]]\nname = \"" + action + ".example\"\nuse = \"" + action + "\"\n"
	}
	e2e.WriteFile(t, config, text)
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--config", config, "--log-queries")...)
	conf := w.ResolvConfText("nameserver 8.8.8.8\nnameserver 1.1.1.1\n")
	times := map[string]string{}
	list := stubs(t)
	for _, s := range list {
		for _, action := range actions {
			name := s.name + "." + action + ".example"
			cmd := w.Host.Command(t.Context(), g, conf[0], append(append(conf[1:len(conf):len(conf)], s.args...), name)...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if want := action == "null"; want != strings.Contains(stdout.String(), "0.0.0.0") {
				t.Errorf("%s: %v: %s%s", name, err, stdout.String(), stderr.String())
			}
			times[name] = strings.TrimSpace(strings.TrimPrefix(stderr.String(), name))
		}
	}
	w.Dig(w.Host, g, "@8.8.8.8", "last.nxdomain.example")
	w.WaitLog(p, "last.nxdomain.example")
	for _, s := range list {
		for _, action := range actions {
			name := s.name + "." + action + ".example"
			n := strings.Count(p.Log(), " name="+name+". ")
			t.Logf("%-8s %-8s %d queries, %s", s.name, action, n, times[name])
			if action != "refuse" && n != s.queries {
				t.Errorf("%s: %d queries, want %d: A and AAAA, once per nameserver that the program asks at the same time", name, n, s.queries)
			}
			if action == "refuse" && n <= s.queries {
				t.Errorf("%s: %d queries: REFUSED no longer makes this program ask again, correct the documentation", name, n)
			}
		}
	}
	if l := w.Upstream.Log(); len(l) > 0 {
		t.Errorf("the upstream received %v", l)
	}
	w.Stop(p)
}
