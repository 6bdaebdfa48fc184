// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/e2e"
)

// TestDrain: after SIGTERM an instance with drain is not ready any more. It answers over UDP and
// over new TCP connections, closes idle ones, and exits with status 0 when the time is
// over.
func TestDrain(t *testing.T) {
	up := startUpstream(t)
	i := start(t, up, "drain = \"4s\"\n")
	idle, err := net.Dial("tcp", i.at)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	udp, err := dns.DialTimeout("udp", i.at, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if err := i.ask("tcp", "before.example"); err != nil {
		t.Fatal(err)
	}
	if code := i.readyHTTP(t); code != http.StatusOK {
		t.Errorf("/ready: status %d", code)
	}
	begun := time.Now()
	i.stop()
	e2e.Eventually(t, "sotto not to be ready", func() bool { return i.readyHTTP(t) == http.StatusServiceUnavailable && !i.ready() })
	if since := time.Since(begun); since > 3*time.Second {
		t.Skipf("this machine took %v to ask twice", since)
	}
	asked := 0
	for ; time.Since(begun) < 3*time.Second; asked++ {
		m := new(dns.Msg)
		m.SetQuestion(fmt.Sprintf("udp%d.example.", asked), dns.TypeA)
		_ = udp.SetDeadline(time.Now().Add(20 * time.Second))
		if err := udp.WriteMsg(m); err != nil {
			t.Fatalf("query %d: %v", asked, err)
		}
		if r, err := udp.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Fatalf("query %d: %v", asked, err)
		}
		if err := i.ask("tcp", fmt.Sprintf("new%d.example", asked)); err != nil {
			t.Errorf("a new connection: %v", err)
		}
	}
	if asked < 10 {
		t.Errorf("%d queries", asked)
	}
	_ = idle.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the idle connection is not closed: %v", err)
	}
	select {
	case <-i.done:
	case <-time.After(20 * time.Second):
		t.Fatal("sotto does not exit")
	}
	if since := time.Since(begun); i.cmd.ProcessState.ExitCode() != 0 || since < 4*time.Second {
		t.Errorf("status %d after %v", i.cmd.ProcessState.ExitCode(), since)
	}
	if !strings.Contains(i.log(), "stopping: not ready any more") {
		t.Errorf("the log does not say why:\n%s", i.log())
	}
}

// readyHTTP returns the status of /ready at the address of the metrics.
func (i *instance) readyHTTP(t *testing.T) int {
	t.Helper()
	r, err := http.Get("http://" + i.metrics + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// TestDrainEndsEarly: a second signal, and the default of drain, end an instance at once.
func TestDrainEndsEarly(t *testing.T) {
	up := startUpstream(t)
	for settings, signals := range map[string]int{"": 1, "drain = \"10m\"\n": 2} {
		i := start(t, up, settings)
		for n := range signals {
			if n > 0 {
				e2e.Eventually(t, "the first signal", func() bool { return !i.ready() })
			}
			i.stop()
		}
		select {
		case <-i.done:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q: sotto does not exit", settings)
		}
		if code := i.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%q: status %d", settings, code)
		}
	}
}
