// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/observe"
	"sotto/internal/status"
)

const (
	dockerID = "3f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a9012"
	podmanID = "4f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a9012"
	podID    = "5f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a90123f4e5d6c7b8a9012"
	podUID   = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
)

// client is a process that asks, in a workload.
type client struct {
	comm     string // also the label of the names that it asks for
	kind, to string
	host     *netlab.Host
	group    *netlab.Cgroup
	workload string // its name
	pid      int
}

// queries is how many each client sends.
const queries = 10

// TestNames: processes of a service, of two containers behind a masquerading bridge and of a
// pod ask at once. Trace, metrics, dnstap and logs distinguish all of them, by the names that
// people know.
func TestNames(t *testing.T) {
	w := e2e.New(t)
	top := w.Cgroup("names.slice")
	below := func(parent *netlab.Cgroup, name string) *netlab.Cgroup {
		t.Helper()
		g, err := w.Lab.Below(parent, name)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	service := below(top, `web\x2dapp.service`)
	docker, podman := below(top, "docker-"+dockerID+".scope"), below(top, "libpod-"+podmanID+".scope")
	pod := below(below(top, "kubepods-pod"+strings.ReplaceAll(podUID, "-", "_")+".slice"), "cri-containerd-"+podID+".scope")
	bridge, err := w.Lab.Bridge(t.Context(), w.Host, "br7", 7)
	if err != nil {
		t.Fatal(err)
	}
	var containers []*netlab.Host
	for _, name := range []string{"docker", "podman"} {
		h, err := w.Lab.Container(bridge, name)
		if err != nil {
			t.Fatal(err)
		}
		containers = append(containers, h)
	}
	outputs := newOutputs(t)
	startNamed(t, w, top, outputs)
	trace := startTrace(t, w, service)
	shop, err := w.Launch(nil, "trace", "--workload", "shop")
	if err != nil {
		t.Fatal(err)
	}

	clients := []*client{
		{comm: "web-udp", kind: "udp", to: "8.8.8.8", host: w.Host, group: service, workload: "web-app.service"},
		{comm: "web-sendto", kind: "sendto", to: "8.8.8.8", host: w.Host, group: service, workload: "web-app.service"},
		{comm: "web-tcp", kind: "tcp", to: "8.8.8.8", host: w.Host, group: service, workload: "web-app.service"},
		{comm: "web-six", kind: "udp", to: "2001:db8::53", host: w.Host, group: service, workload: "web-app.service"},
		{comm: "docker-udp", kind: "udp", to: "8.8.4.4", host: containers[0], group: docker, workload: "docker:shop"},
		{comm: "docker-sendto", kind: "sendto", to: "8.8.4.4", host: containers[0], group: docker, workload: "docker:shop"},
		{comm: "docker-tcp", kind: "tcp", to: "8.8.4.4", host: containers[0], group: docker, workload: "docker:shop"},
		{comm: "podman-udp", kind: "udp", to: "1.1.1.1", host: containers[1], group: podman, workload: "podman:db"},
		{comm: "podman-sendto", kind: "sendto", to: "1.1.1.1", host: containers[1], group: podman, workload: "podman:db"},
		{comm: "pod-udp", kind: "udp", to: "9.9.9.9", host: w.Host, group: pod, workload: "pod:default/web-0/nginx"},
		{comm: "pod-tcp", kind: "tcp", to: "9.9.9.9", host: w.Host, group: pod, workload: "pod:default/web-0/nginx"},
	}
	// Names are looked up in the background, from the first query of each workload.
	for _, c := range clients {
		w.Dig(c.host, c.group, "@2001:db8::54", "first.example")
	}
	w.Until("the names of the workloads", func() bool {
		return !slices.ContainsFunc(clients, func(c *client) bool { return !slices.Contains(workloadNames(t, w), c.workload) })
	})
	runClients(t, clients)
	w.Until("all queries", func() bool { return strings.Count(trace.Log(), `"name":"n`) >= queries*len(clients) })
	checkTrace(t, trace.Log(), clients)
	// The text form, filtered. Its trace may have started after the first queries.
	w.Until("the filtered trace", func() bool {
		w.Dig(containers[0], docker, "@8.8.4.4", "last.example")
		return strings.Contains(shop.Log(), " @8.8.4.4 last.example. A → NOERROR ")
	})
	for line := range strings.Lines(shop.Log()) {
		if f := strings.Fields(line); f[1] != "docker:shop" || !strings.Contains(f[2], "[") && f[2] != "unknown" {
			t.Errorf("filtered: %s", line)
		}
	}

	outputs.check(w, clients)
	if out, errs, code := w.Sotto("status"); code != 0 || !strings.Contains(out, "docker:shop") || !strings.Contains(out, "web-app.service") {
		t.Errorf("status %d:\n%s%s", code, out, errs)
	}
}

// startNamed seals a cgroup, by a Sotto that sees files of container runtimes.
func startNamed(t *testing.T, w *e2e.World, top *netlab.Cgroup, o *outputs) {
	t.Helper()
	files := t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(files, "lib", "docker/containers", dockerID, "config.v2.json"):         `{"Name":"/shop"}`,
		filepath.Join(files, "lib", "containers/storage/overlay-containers/containers.json"): `[{"id":"` + podmanID + `","names":["db"]}]`,
		filepath.Join(files, "log", "pods/default_web-0_"+podUID, "nginx/0.log"):             "",
		filepath.Join(files, "log", "containers/web-0_default_nginx-"+podID+".log"):          "",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		e2e.WriteFile(t, path, text)
	}
	args := append([]string{"--mount", "sh", "-ec", `mount --bind "$0" /var && exec "$@"`, files, w.Program.Path}, append(w.RunArgs(top), "--config", o.config, "--log-queries")...)
	cmd := w.Host.Command(context.Background(), nil, "unshare", args...)
	cmd.Env = append(append(os.Environ(), e2e.RaceEnv), w.Program.Env...)
	p, err := w.LaunchCommand(cmd)
	if err != nil {
		t.Fatal(err)
	}
	w.Track(cmd)
	w.WaitReady(p, "msg=sealed")
	o.process = p
	t.Cleanup(func() { w.Stop(p) })
}

// startTrace starts a trace, and waits until it shows queries.
func startTrace(t *testing.T, w *e2e.World, g *netlab.Cgroup) *e2e.Process {
	t.Helper()
	p, err := w.Launch(nil, "trace", "--json")
	if err != nil {
		t.Fatal(err)
	}
	w.Until("the trace", func() bool {
		w.Dig(w.Host, g, "@2001:db8::54", "start.example")
		return strings.Contains(p.Log(), "start.example.")
	})
	return p
}

// workloadNames returns the names in the status.
func workloadNames(t *testing.T, w *e2e.World) (names []string) {
	t.Helper()
	out, errs, code := w.Sotto("status", "--json")
	var s status.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 {
		t.Fatalf("status %d: %v\n%s", code, err, errs)
	}
	for _, l := range s.Workloads {
		names = append(names, l.WorkloadName)
	}
	return names
}

// runClients runs all clients at once. No port is used by two of them. The name of an executable
// is that of its process.
func runClients(t *testing.T, clients []*client) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var cmds []*netlab.Cmd
	var inputs []io.Closer
	var outputs []*bufio.Reader
	for _, c := range clients {
		line := e2e.Client("named", c.kind, c.to, c.comm, fmt.Sprint(queries))
		at := slices.Index(line, self)
		link := filepath.Join(dir, c.comm)
		if err := os.Symlink(line[at], link); err != nil {
			t.Fatal(err)
		}
		line[at] = link
		cmd := c.host.Command(t.Context(), c.group, labtest.NeedTool(t, line[0]), line[1:]...)
		cmd.Stderr = os.Stderr
		in, inErr := cmd.StdinPipe()
		out, outErr := cmd.StdoutPipe()
		if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		c.pid = cmd.Process.Pid // env becomes the client
		cmds, inputs, outputs = append(cmds, cmd), append(inputs, in), append(outputs, bufio.NewReader(out))
	}
	for i, out := range outputs {
		if line, err := out.ReadString('\n'); line != "asked\n" {
			t.Errorf("%s: %q, %v", clients[i].comm, line, err)
		}
	}
	for i, cmd := range cmds {
		_ = inputs[i].Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", clients[i].comm, err)
		}
	}
}

// checkTrace compares the records of all clients' queries.
func checkTrace(t *testing.T, log string, clients []*client) {
	t.Helper()
	count := make(map[string]int)
	for line := range strings.Lines(log) {
		var r observe.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Lost > 0 {
			t.Errorf("%d queries lost", r.Lost)
		}
		f := strings.Split(r.Name, ".")
		at := slices.IndexFunc(clients, func(c *client) bool { return len(f) > 1 && f[1] == c.comm })
		if at < 0 {
			continue
		}
		c := clients[at]
		count[c.comm]++
		proto := "udp"
		if c.kind == "tcp" {
			proto = "tcp"
		}
		want := observe.Process{PID: c.pid, UID: os.Getuid(), Comm: c.comm}
		if r.WorkloadName != c.workload || r.Process != want || r.Nameserver.Addr().String() != c.to || r.Proto != proto {
			t.Errorf("%s: workload %q, process %+v, nameserver %v, %s: want %q, %+v, %s, %s",
				c.comm, r.WorkloadName, r.Process, r.Nameserver, r.Proto, c.workload, want, c.to, proto)
		}
	}
	for _, c := range clients {
		if count[c.comm] != queries {
			t.Errorf("%s: %d records", c.comm, count[c.comm])
		}
	}
}
