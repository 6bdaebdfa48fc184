// SPDX-License-Identifier: Apache-2.0

package run

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/e2e"
)

// watchdogTime is WatchdogSec= of the test. Keep-alives come three times as often.
const watchdogTime = 3 * time.Second

// manager is the service manager's socket for notifications.
type manager struct {
	t *testing.T
	c *net.UnixConn
}

func newManager(t *testing.T) (m manager, env []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return manager{t, c}, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=3000000"}
}

// receives reports whether a message comes within a time, after those that were sent before.
func (m manager) receives(message string, within time.Duration) bool {
	m.t.Helper()
	buf := make([]byte, 4096)
	_ = m.c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	for err := error(nil); err == nil; {
		_, err = m.c.Read(buf)
	}
	_ = m.c.SetReadDeadline(time.Now().Add(within))
	for {
		n, err := m.c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			m.t.Fatal(err)
		}
		if strings.Contains(string(buf[:n]), message) {
			return true
		}
	}
}

// TestWatchdog checks that keep-alives are sent as long as queries are answered: those of the
// watchdog itself, which are not counted, or those of clients.
func TestWatchdog(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	m, env := newManager(t)
	cmd := w.Command(context.Background(), nil, append(w.RunArgs(g), "--log-queries")...)
	cmd.Env = append(cmd.Env, env...)
	p, err := w.LaunchCommand(cmd)
	if err != nil {
		t.Fatal(err)
	}
	w.WaitReady(p, "msg=sealed")
	for range 3 {
		if !m.receives("WATCHDOG=1", 10*watchdogTime) {
			t.Fatalf("no keep-alive\n%s", p.Log())
		}
	}
	if out, _, status := w.Sotto("status", "--json"); status != 0 || !strings.Contains(out, `"total": 0`) {
		t.Errorf("queries of the watchdog are counted:\n%s", out)
	}
	if strings.Contains(p.Log(), "msg=query") {
		t.Errorf("queries of the watchdog are logged:\n%s", p.Log())
	}

	// Only the watchdog's own queries are lost, as under overload.
	w.Shell(`nsenter --net=/run/netns/` + e2e.Instance + ` nft -f - <<'END'
add table inet watchdog
add chain inet watchdog input { type filter hook input priority 0; }
add rule inet watchdog input ip daddr 127.0.0.1 drop
END`)
	w.Until("a warning", func() bool { return strings.Contains(p.Log(), "own query not answered") })
	r := w.StartLoad(g, 20)
	for range 2 {
		if !m.receives("WATCHDOG=1", 10*watchdogTime) {
			t.Error("no keep-alives although clients are answered")
		}
	}
	r.Stop()
	time.Sleep(watchdogTime) // for the replies to the last queries
	if m.receives("WATCHDOG=1", 2*watchdogTime) {
		t.Error("keep-alives although nothing is answered")
	}
	w.Shell(`nsenter --net=/run/netns/` + e2e.Instance + ` nft delete table inet watchdog`)
	if !m.receives("WATCHDOG=1", 10*watchdogTime) {
		t.Error("no keep-alives after the failure")
	}
	w.Stop(p)
	w.NothingLeft()
}
