// SPDX-License-Identifier: Apache-2.0

package run

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/observe"
	"sotto/internal/status"
)

// TestStatus checks that status and trace show a sealed workload, the nameserver that it
// asked, and what the kernel counts, and that a process that has taken over continues.
func TestStatus(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	tr, err := w.Launch(nil, "trace", "--json")
	if err != nil {
		t.Fatal(err)
	}
	workload := "/" + filepath.Base(g.Path)
	lookup := func() { w.DigFresh(g) }
	w.Until("the trace to start", func() bool { lookup(); return strings.Contains(tr.Log(), workload) })
	var r observe.Record
	if err := json.Unmarshal([]byte(strings.SplitN(tr.Log(), "\n", 2)[0]), &r); err != nil {
		t.Fatalf("%v: %s", err, tr.Log())
	}
	if r.Workload != workload || r.Nameserver != netip.MustParseAddrPort("8.8.8.8:53") || r.Source != "upstream" || r.Rcode != "NOERROR" {
		t.Errorf("trace %+v", r)
	}
	s := w.status()
	if s.Seal == nil || len(s.Seal.Cgroups) != 1 || s.Seal.Cgroups[0] != g.Path || s.Seal.Guard != "drop" || s.Seal.LocalResolvers != "redirect" ||
		s.Seal.SlotsUsed == 0 || s.Seal.Counters["connect"]+s.Seal.Counters["send"] == 0 || !s.Ready {
		t.Errorf("seal %+v", s.Seal)
	}
	if len(s.Workloads) != 1 || s.Workloads[0].Name != workload || s.Workloads[0].Queries != s.Queries.Total || s.Queries.Source["upstream"] == 0 {
		t.Errorf("workloads %+v, queries %+v", s.Workloads, s.Queries)
	}
	if out, errs, code := w.Sotto("explain", "printer", "--nameserver", "127.0.0.53"); code != 0 || !strings.Contains(out, "sent to the local resolver") {
		t.Errorf("explain: status %d\n%s%s", code, out, errs)
	}

	next := w.Replace(p, w.RunArgs(g)...)
	if <-tr.Done; !strings.Contains(tr.Log(), "another one has taken over") {
		t.Errorf("the trace ended with %s", tr.Log())
	}
	w.CheckSealed("after the takeover", g)
	if after := w.status(); after.PID == s.PID || after.Seal.Counters["send"]+after.Seal.Counters["connect"] <= s.Seal.Counters["send"]+s.Seal.Counters["connect"] {
		t.Errorf("after the takeover: PID %d after %d, counters %v after %v", after.PID, s.PID, after.Seal.Counters, s.Seal.Counters)
	}
	w.Signal(next, unix.SIGTERM)
	w.WaitExit(next)
	if _, errs, code := w.Sotto("status"); code == 0 || !strings.Contains(errs, "no Sotto listens") {
		t.Errorf("after the stop: status %d, %s", code, errs)
	}
	w.NothingLeft()
}

// status returns the status of the running Sotto.
func (w world) status() (s status.Status) {
	w.T.Helper()
	out, errs, code := w.Sotto("status", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 {
		w.T.Fatalf("status: exit %d, %v\n%s%s", code, err, out, errs)
	}
	return s
}
