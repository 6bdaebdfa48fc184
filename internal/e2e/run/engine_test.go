// SPDX-License-Identifier: Apache-2.0

package run

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// engineScript asks like dockerd's embedded resolver: with a socket that it opened in the network
// namespace of a container. It reads names, and writes the response codes.
const engineScript = `
import ctypes, os, socket, sys
setns = ctypes.CDLL(None).setns
home, box = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(sys.argv[1], os.O_RDONLY)
assert setns(box, 0) == 0
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert setns(home, 0) == 0
s.connect(("8.8.8.8", 53))
s.settimeout(5)
print("ready", flush=True)
for line in sys.stdin:
    labels = line.strip().split(".")
    question = b"".join(bytes([len(l)]) + l.encode() for l in labels) + b"\0\0\1\0\1"
    s.send(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + question)
    print("rcode", s.recv(4096)[3] & 15, flush=True)
`

// engine starts the script in a cgroup, and returns a function that asks for a name in the
// network namespace of a process.
func (w world) engine(g *netlab.Cgroup, box int) (ask func(name string) string) {
	w.T.Helper()
	cmd := w.Host.Command(w.T.Context(), g, labtest.NeedTool(w.T, "/usr/bin/python3"), "-c", engineScript, fmt.Sprintf("/proc/%d/ns/net", box))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	lines := bufio.NewReader(stdout)
	read := func() string {
		line, err := lines.ReadString('\n')
		if err != nil {
			w.T.Fatalf("the engine failed: %v", err)
		}
		return strings.TrimSpace(line)
	}
	read()
	return func(name string) string {
		if _, err := fmt.Fprintln(stdin, name); err != nil {
			w.T.Fatal(err)
		}
		return read()
	}
}

// container starts a process in a container's network namespace and cgroup.
func (w world) container(h *netlab.Host, g *netlab.Cgroup) (pid int) {
	w.T.Helper()
	cmd := h.Command(w.T.Context(), g, "sleep", "600")
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// TestEmbeddedResolver checks that the queries of a container engine for its containers belong to
// these: rules by workload apply to each of them from the first query on, and the log names them.
func TestEmbeddedResolver(t *testing.T) {
	labtest.NeedKernel(t, 5, 14, "SO_NETNS_COOKIE")
	w := newWorld(t)
	boxes := labtest.Containers(t, w.Lab, w.Host, "one", "two")
	engine, one, two := w.Cgroup("engine"), w.Cgroup("one"), w.Cgroup("two")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, fmt.Sprintf("[[rule]]\nworkload = %q\nname = \"blocked.example\"\nuse = \"nxdomain\"\n\n"+
		"[[rule]]\nworkload = %q\nname = \"engine.example\"\nuse = \"nxdomain\"\n", glob(one), glob(engine)))
	p := w.Start("msg=sealed", append(w.RunArgs(engine), "--config", config, "--log-queries")...)

	first := w.engine(engine, w.container(boxes[0], one))
	second := w.engine(engine, w.container(boxes[1], two))
	for _, tc := range []struct {
		container string
		ask       func(string) string
		name      string
		want      string
	}{
		{"one", first, "blocked.example", "rcode 3"},
		{"two", second, "blocked.example", "rcode 0"},
		{"one", first, "engine.example", "rcode 0"},
		{"two", second, "engine.example", "rcode 0"},
	} {
		if got := tc.ask(tc.name); got != tc.want {
			t.Errorf("%s of container %s: %s, want %s", tc.name, tc.container, got, tc.want)
		}
	}
	w.Stop(p)
	for _, g := range []*netlab.Cgroup{one, two} {
		if !strings.Contains(p.Log(), "/"+filepath.Base(g.Path)) {
			t.Errorf("the log does not name the workload %s:\n%s", g.Path, p.Log())
		}
	}
}
