// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/observe"
)

// digUsual is the command line of a query that the kernel may answer: dig sends a cookie by default.
func (w *world) digUsual(args ...string) string {
	w.T.Helper()
	return w.Dig(w.Host, w.group, append([]string{"+nocookie", "@8.8.8.8"}, args...)...)
}

// TestObserved checks that what the kernel answers is counted once, for its workload, and shown in a
// trace with the process that asked.
func TestObserved(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	w.configure()
	w.seal()
	w.Until("the kernel to answer", func() bool {
		if out := w.digUsual("seen.example"); !strings.Contains(out, e2e.Sealed4) {
			t.Fatal(out)
		}
		return w.answered() > 0
	})
	trace, err := w.Launch(nil, "trace", "--json")
	if err != nil {
		t.Fatal(err)
	}
	w.Until("the trace", func() bool {
		w.digUsual("SEEN.example")
		return strings.Contains(trace.Log(), `"source":"kernel"`)
	})
	w.checkTraced(trace.Log())

	s := w.status()
	given := s.Seal.KernelAnswers.Verdicts["answered"]
	if s.Queries.Source["kernel"] != given {
		t.Errorf("%d queries were answered by the kernel, which answered %d", s.Queries.Source["kernel"], given)
	}
	for _, l := range s.Workloads {
		if filepath.Base(l.Name) == filepath.Base(w.group.Path) {
			if l.Queries != s.Queries.Total || l.Cached < given {
				t.Errorf("the workload has %+v of %+v", l, s.Queries)
			}
			return
		}
	}
	t.Errorf("the workload does not occur in %+v", s.Workloads)
}

// checkTraced checks the first of the kernel's replies in a trace.
func (w *world) checkTraced(text string) {
	w.T.Helper()
	for line := range strings.Lines(text) {
		var r observe.Record
		if json.Unmarshal([]byte(line), &r) != nil || r.Source != "kernel" {
			continue
		}
		if r.Name != "SEEN.example." || r.Type != "A" || r.Rcode != "NOERROR" || r.Proto != "udp" || r.Nameserver.String() != "8.8.8.8:53" ||
			filepath.Base(r.Workload) != filepath.Base(w.group.Path) || r.Client.Port() == 0 || r.Millis > 1000 {
			w.T.Errorf("trace: %s", line)
		}
		if !strings.HasPrefix(r.Process.Comm, "isc-net") && r.Process.Comm != "dig" && r.Process != observe.UnknownProcess {
			w.T.Errorf("trace: the process is %+v", r.Process)
		}
		return
	}
	w.T.Error("no reply of the kernel in the trace")
}

// TestOff checks that the kernel does not answer where each query is recorded, and what the status
// shows then.
func TestOff(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	w.configure("log-queries = true")
	p := w.seal()
	for range 5 {
		if out := w.digUsual("off.example"); !strings.Contains(out, e2e.Sealed4) {
			t.Error(out)
		}
	}
	s := w.status()
	if k := s.Seal.KernelAnswers; k.State != "off" || !strings.Contains(k.Reason, "log-queries") || s.Queries.Source["kernel"] != 0 {
		t.Errorf("%+v, %+v", k, s.Queries)
	}
	w.Stop(p)
}
