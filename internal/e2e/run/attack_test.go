// SPDX-License-Identifier: Apache-2.0

package run

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// startAttacker starts one of the clients above in a host and a cgroup. The function that it
// returns stops the client and returns its output.
func (w world) startAttacker(h *netlab.Host, g *netlab.Cgroup, name string, args ...string) (stop func() string) {
	w.T.Helper()
	line := e2e.Client(name, args...)
	cmd := h.Command(w.T.Context(), g, line[0], line[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	if line, err := out.ReadString('\n'); line != "started\n" {
		w.T.Fatalf("%s: %q, %v", name, line, err)
	}
	return func() string {
		err := stdin.Close()
		rest, rerr := io.ReadAll(out)
		if err := errors.Join(err, rerr, cmd.Wait()); err != nil {
			w.T.Errorf("%s: %v", name, err)
		}
		return strings.ReplaceAll(string(rest), "\n", " ")
	}
}

// TestFloodFromContainer floods from a thousand ports of a sealed container, with names that
// are not answered and with cached ones.
func TestFloodFromContainer(t *testing.T) { attackFromContainer(t, "flood") }

// TestSpoofFromContainer floods from a sealed container with forged sources. The queries are
// attributed to the workload that has the virtual address.
func TestSpoofFromContainer(t *testing.T) { attackFromContainer(t, "spoof") }

// attackFromContainer resolves from another container and from the host during an attack. The
// attack uses up only the share of the attacker's workload, no plain packet is sent, memory
// is bounded, and the attacker's workload resolves after the attack.
func attackFromContainer(t *testing.T, attack string) {
	w := newWorld(t)
	w.Watch()
	containers := labtest.Containers(t, w.Lab, w.Host, "one", "two")
	greedy, modest, host := w.Cgroup("greedy"), w.Cgroup("modest"), w.Cgroup("host")
	p := w.Start("msg=sealed", w.RunArgs(greedy, modest, host)...)
	victim := func(h *netlab.Host, g *netlab.Cgroup, name string) {
		t.Helper()
		line := e2e.Client("resolve-all", "8.8.8.8", name)
		out, err := h.Command(t.Context(), g, line[0], line[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
			return
		}
		t.Logf("%s: %s", name, strings.SplitN(string(out), "\n", 2)[0])
	}
	rate := 10_000
	if e2e.RaceDetector {
		rate = 2_500 // a similar load for a program that is several times slower
	}
	stop := w.startAttacker(containers[0], greedy, attack, "8.8.8.8", strconv.Itoa(rate))
	// The workload is refused. The first refusal per minute is logged.
	w.Until("the attack to be refused", func() bool { return strings.Contains(p.Log(), " source=") })
	if want := " source=/" + filepath.Base(greedy.Path) + " "; !strings.Contains(p.Log(), want) {
		t.Errorf("no%s in the log:\n%s", want, p.Log())
	}
	victim(containers[1], modest, "beside")
	victim(w.Host, host, "host")
	t.Logf("the attacker: %s", stop())
	w.Until("the attacker's workload to resolve", func() bool {
		return strings.Contains(w.Dig(containers[0], greedy, "+short", "+timeout=1", "@8.8.8.8", "after.example"), e2e.Sealed4)
	})
	peak := e2e.PeakMemory(t, p.Cmd.Process.Pid)
	t.Logf("at most %d MiB resident", peak>>20)
	if limit := int64(250 << 20); !e2e.RaceDetector && peak > limit {
		t.Errorf("%d MiB were resident, want at most %d", peak>>20, limit>>20)
	}
	// Replies to forged sources that are pending at the stop are not sent either.
	w.Stop(p)
	w.NothingLeft()
}
