// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// TestReplaceWithoutNamespace: a process that does not see the listener's network namespace by
// its name, such as one in a container with another /run/netns, cannot take over, and the running
// one continues. Otherwise its network would replace that of the listener.
func TestReplaceWithoutNamespace(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	old := w.Start("msg=sealed", w.RunArgs(g)...)
	r := w.StartLoad(g, 200)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := w.Host.Command(ctx, nil, "unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-c",
		`mount -t tmpfs tmpfs /run/netns && exec "$0" "$@"`, w.Program.Path}, append(w.RunArgs(g), "--replace")...)...)
	cmd.Env = append(os.Environ(), w.Program.Env...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the network namespace of the running Sotto is not /run/netns/sotto here") {
		t.Errorf("it took over: %v\n%s", err, out)
	}
	w.WaitLog(old, "reclaimed the seal")
	w.CheckSealed("after the refusal", g)
	if report := r.Stop(); report.Lost+report.Reset+report.Failed+report.Wrong > 0 || report.UDP == 0 {
		t.Errorf("%+v", report)
	}
	w.Stop(old)
	w.NothingLeft()
}
