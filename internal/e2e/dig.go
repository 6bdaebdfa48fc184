// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"time"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// Dig runs dig in a host and a cgroup and returns its output.
func (w *World) Dig(h *netlab.Host, g *netlab.Cgroup, args ...string) string {
	w.T.Helper()
	out, err := h.Command(w.T.Context(), g, labtest.NeedTool(w.T, "dig"), append([]string{"+tries=1", fmt.Sprintf("+timeout=%d", labtest.Patience(4*time.Second)/time.Second)}, args...)...).CombinedOutput()
	if err != nil {
		return err.Error() + "\n" + string(out)
	}
	return string(out)
}

// DigFresh queries a name that is in no cache, and returns the output of dig.
func (w *World) DigFresh(g *netlab.Cgroup) string {
	w.T.Helper()
	w.names++
	return w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", fmt.Sprintf("fresh%d.example", w.names))
}

// WaitAnswered waits until a query for a new name is answered by the upstream, and returns
// how long that took.
func (w *World) WaitAnswered(g *netlab.Cgroup, within time.Duration) time.Duration {
	w.T.Helper()
	start := time.Now()
	for {
		if strings.Contains(w.DigFresh(g), Sealed4) {
			return time.Since(start)
		}
		if time.Since(start) > within {
			w.T.Fatalf("no answer within %s", within)
		}
	}
}

// CheckSealed fails the test if queries from g are not answered by the TLS upstream.
func (w *World) CheckSealed(when string, g *netlab.Cgroup) {
	w.T.Helper()
	for _, proto := range []string{"+notcp", "+tcp"} {
		if out := w.Dig(w.Host, g, proto, "@8.8.8.8", "works.example"); !strings.Contains(out, Sealed4) {
			w.T.Errorf("%s:\n%s", when, out)
		}
	}
}

// CheckOpen fails the test if queries from g are not sent in plain DNS.
func (w *World) CheckOpen(when string, g *netlab.Cgroup) {
	w.T.Helper()
	if out := w.Dig(w.Host, g, "@8.8.8.8", "open.example"); !strings.Contains(out, Plain4) {
		w.T.Errorf("%s the seal is not open:\n%s", when, out)
	}
}
