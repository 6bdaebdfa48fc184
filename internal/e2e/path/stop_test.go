// SPDX-License-Identifier: Apache-2.0

package path

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// testing starts a `run` whose queries get no answer, and waits until it tests their path.
func (w world) testing(g *netlab.Cgroup) *e2e.Process {
	w.T.Helper()
	w.Shell(`nft 'flush ruleset; table inet f { chain i { type filter hook input priority 0; iifname "sotto0" drop; }; }'`)
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	w.Until("the test to start", func() bool { return len(w.temporary(g)) > 0 })
	return p
}

// child returns the PID in the name of a temporary cgroup, that of the process that tests.
func child(t *testing.T, dir string) int {
	t.Helper()
	pid, err := strconv.Atoi(dir[strings.LastIndex(dir, "-")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestStopDuringTest stops Sotto while queries are sent: the test ends first, none of its
// queries leaves (see newWorld), and nothing is left.
func TestStopDuringTest(t *testing.T) {
	labtest.NeedTool(t, "nft")
	w := newWorld(t)
	g := w.Cgroup("workload")
	p := w.testing(g)
	w.Stop(p)
	if left := w.temporary(g); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.NothingLeft()
}

// TestCrashDuringTest kills Sotto while queries are sent: the test ends by itself. If it is
// killed as well, the next start removes its cgroup.
func TestCrashDuringTest(t *testing.T) {
	labtest.NeedTool(t, "nft")
	w := newWorld(t)
	g := w.Cgroup("workload")
	p := w.testing(g)
	w.Kill(p)
	w.Until("the test to end", func() bool { return len(w.temporary(g)) == 0 })

	p = w.testing(g)
	dir := w.temporary(g)[0]
	tester, err := os.FindProcess(child(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	w.Kill(p)
	_ = tester.Kill() // it may have ended
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	w.Shell("nft flush ruleset")
	p = w.run(g)
	if left := w.temporary(g); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.Stop(p)
	w.NothingLeft()
}

// TestFrozen checks that a frozen cgroup is not entered: the test would not run there.
func TestFrozen(t *testing.T) {
	w := newWorld(t)
	frozen, g := w.Cgroup("frozen"), w.Cgroup("workload")
	freeze := func(value string) {
		e2e.WriteFile(t, frozen.Path+"/cgroup.freeze", value)
		w.Until("the cgroup to be frozen", func() bool {
			text, err := os.ReadFile(frozen.Path + "/cgroup.events")
			return err == nil && strings.Contains(string(text), "frozen "+value)
		})
	}
	w.background(w.Host, frozen)
	freeze("1")
	defer freeze("0")
	p := w.run(frozen, g)
	if !strings.Contains(p.Log(), "it is frozen") || !strings.Contains(p.Log(), tested+" 1 cgroups") {
		t.Errorf("the log does not say what was tested:\n%s", p.Log())
	}
	w.Stop(p)
}

// TestTakeoverDuringTest replaces Sotto while queries are sent. The new process tests as well.
func TestTakeoverDuringTest(t *testing.T) {
	labtest.NeedTool(t, "nft")
	w := newWorld(t)
	g := w.Cgroup("workload")
	p := w.testing(g)
	n := w.Replace(p, w.RunArgs(g)...)
	w.WaitLog(n, warning)
	w.Stop(n)
	if left := w.temporary(g); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.NothingLeft()
}
