// SPDX-License-Identifier: Apache-2.0

package run

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLeakUnderRepair deletes network state that the seal depends on, under load. No plain
// packet is sent, and queries are answered again. Meanwhile they may fail: without its address
// the host cannot reach the upstream.
func TestLeakUnderRepair(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", append([]string{"run", "--cgroup", g.Path}, w.UpstreamArgs()...)...)
	r := w.StartLoad(g, 1000)
	for _, deleted := range []struct{ what, command string }{
		{"the link", "ip link delete sotto0"},
		{"the route", "ip route delete 198.19.0.0/16 dev sotto0"},
		{"the IPv6 route", "ip -6 route delete fd73:6f74:746f::/64 dev sotto0"},
		{"the unreachable route", "ip route delete unreachable 198.19.0.0/16 metric 4294967295"},
		// It may be repaired before the file is removed, which then fails.
		{"the namespace", "umount /run/netns/sotto && { rm /run/netns/sotto || mountpoint -q /run/netns/sotto; }"},
		{"all links and routes", "ip route delete unreachable 198.19.0.0/16 metric 4294967295; ip link delete sotto0"},
		{"the interface's address", "ip address flush dev eth0 && ip address add 10.77.0.2/24 dev eth0 && ip address add fd77::2/64 dev eth0 nodad && ip route add default via 10.77.0.1 && ip -6 route replace default via fd77::1"},
	} {
		out, err := w.Host.Command(t.Context(), nil, "sh", "-c", deleted.command).CombinedOutput()
		if err != nil {
			t.Errorf("delete %s: %v\n%s", deleted.what, err, out)
		}
		t.Logf("%s deleted: answered after %s", deleted.what, w.WaitAnswered(g, 10*time.Second).Round(time.Millisecond))
	}
	if report := r.Stop(); report.Wrong > 0 || report.UDP == 0 {
		t.Errorf("%+v", report)
	}
	w.Stop(p)
	w.NothingLeft()
}

// TestLeakStopped suspends the process, as a debugger does. Queries wait or fail and no plain
// packet is sent. When the process continues they are answered.
func TestLeakStopped(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", append([]string{"run", "--cgroup", g.Path}, w.UpstreamArgs()...)...)
	k := w.OpenSocket(g)
	before := k.Ask()
	if err := p.Cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"@8.8.8.8"}, {"@2001:db8::53"}, {"+tcp", "@8.8.8.8"}} {
		if out := w.Dig(w.Host, g, append(args, "+timeout=1", "stopped.example")...); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("answered by a suspended process:\n%s", out)
		}
	}
	if err := p.Cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if after := k.Ask(); after != before {
		t.Errorf("the socket's slot was %s, is %s", before, after)
	}
	w.Stop(p)
	w.NothingLeft()
}

// killsVar sets the number of kills in TestLeakKilled, with three seconds between them:
// SOTTO_KILLS=20 takes a minute.
const killsVar = "SOTTO_KILLS"

// TestLeakKilled kills the process several times under load. No plain packet is sent. After
// each start the next query is answered, and a socket that was connected before the first
// kill still has its slot.
func TestLeakKilled(t *testing.T) {
	kills, pause := 4, 300*time.Millisecond
	if text := os.Getenv(killsVar); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s=%s: want a number", killsVar, text)
		}
		kills, pause = n, 3*time.Second
	}
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	args := append([]string{"run", "--cgroup", g.Path}, w.UpstreamArgs()...)
	p := w.Start("msg=sealed", args...)
	k := w.OpenSocket(g)
	before := k.Ask()
	r := w.StartLoad(g, 2000)
	worst := time.Duration(0)
	for range kills {
		time.Sleep(pause)
		w.Kill(p)
		if out := w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", "dead.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("answered by a killed process:\n%s", out)
		}
		p = w.Start("msg=sealed", args...)
		start := time.Now()
		if after := k.AskAfterRestart(); after != before {
			t.Errorf("the socket's slot was %s, is %s", before, after)
		}
		worst = max(worst, time.Since(start))
	}
	// Queries in flight at a kill are lost: clients have to retry. No answer may be another
	// server's than the upstream's.
	report := r.Stop()
	if report.Wrong > 0 || report.UDP == 0 {
		t.Errorf("%+v", report)
	}
	t.Logf("%d kills, answered at most %s after a start; %+v", kills, worst.Round(time.Millisecond), report)
	w.Stop(p)
	w.NothingLeft()
}
