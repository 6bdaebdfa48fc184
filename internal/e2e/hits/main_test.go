// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/status"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// world has a seal whose kernel answers.
type world struct {
	*e2e.World
	config string
	group  *netlab.Cgroup
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := e2e.New(t)
	return &world{World: w, config: filepath.Join(t.TempDir(), "sotto.toml"), group: w.Cgroup("workload")}
}

// configure writes the configuration with these lines. The order of addresses is fixed, so that the
// kernel gives answers with several of them.
func (w *world) configure(more ...string) {
	w.T.Helper()
	e2e.WriteFile(w.T, w.config, fmt.Sprintf("rrset-order = \"fixed\"\nupstream = [%q]\nca-file = %q\n", e2e.UpstreamAddr+"#"+e2e.UpstreamName, w.CAFile)+strings.Join(more, "\n")+"\n")
}

// seal starts `run`, and stops it at the end of the test if it still runs.
func (w *world) seal() *e2e.Process {
	w.T.Helper()
	p := w.Start("msg=sealed", w.args()...)
	w.T.Cleanup(func() {
		if p.Running() {
			w.Stop(p)
		}
	})
	return p
}

// args are the arguments of `run` with the configuration.
func (w *world) args() []string {
	return []string{"run", "--config", w.config, "--cgroup", w.group.Path}
}

// status returns the status of the running Sotto.
func (w *world) status() (s status.Status) {
	w.T.Helper()
	stdout, stderr, code := w.Sotto("status", "--json")
	if code != 0 {
		w.T.Fatalf("status: %s", stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		w.T.Fatal(err)
	}
	return s
}

// answered returns how many queries the kernel answered.
func (w *world) answered() uint64 {
	w.T.Helper()
	k := w.status().Seal.KernelAnswers
	if k.State != "on" {
		w.T.Fatalf("the kernel does not answer: %s", k.Reason)
	}
	return k.Verdicts["answered"]
}

// run runs a client in the workload's cgroup.
func (w *world) run(h *netlab.Host, name string, args ...string) {
	w.T.Helper()
	line := e2e.Client(name, args...)
	if out, err := h.Command(context.Background(), w.group, line[0], line[1:]...).CombinedOutput(); err != nil {
		w.T.Fatalf("%s: %v\n%s", name, err, out)
	}
}
