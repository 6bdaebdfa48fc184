// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
)

const metricsAddr = "127.0.0.1:9053"

// TestReplaceMetrics: a process that has dropped its privileges answers scrapes in the host's
// network namespace, and one that takes over does so at the same address.
func TestReplaceMetrics(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	args := append(w.RunArgs(g), "--metrics", metricsAddr)
	p := w.Start("msg=sealed", args...)
	if out := w.Dig(w.Host, g, "@1.1.1.1", "one.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("%s", out)
	}
	check := func(p *e2e.Process, queries int) {
		t.Helper()
		text, err := w.Get("http://" + metricsAddr + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"sotto_ready 1", "sotto_sealed_cgroups 1", "sotto_slots_limit 655", `sotto_hook_events_total{event="slot_new"} `, "process_open_fds ",
			`sotto_guard_packets_total{reason="stopped_packet"} 0`, fmt.Sprintf(`%s"} %d`, filepath.Base(g.Path), queries),
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	}
	check(p, 1)
	p = w.Replace(p, args...)
	for n := range 2 {
		if out := w.Dig(w.Host, g, "@1.1.1.1", fmt.Sprintf("after%d.example", n)); !strings.Contains(out, e2e.Sealed4) {
			t.Errorf("%s", out)
		}
	}
	check(p, 2) // it counts from zero
	w.Stop(p)
	if _, err := w.Get("http://" + metricsAddr + "/metrics"); err == nil {
		t.Error("scraped after the stop")
	}
	w.NothingLeft()
}
