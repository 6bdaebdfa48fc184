// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"
)

// sh runs a script in the host.
func (w *world) sh(script string) {
	w.t.Helper()
	if out, err := w.host.Command(w.t.Context(), nil, "sh", "-ec", script).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

const (
	noNetwork = "ip link set eth0 down; ip address flush dev eth0"
	addresses = "ip address flush dev eth0; ip address add 10.77.0.N/24 dev eth0; ip address add fd77::N/64 dev eth0 nodad; " +
		"ip route replace default via 10.77.0.1; ip -6 route replace default via fd77::1"
)

func network() string { return "ip link set eth0 up; " + address("2") }

// address gives the host other addresses, and its routes.
func address(n string) string { return strings.ReplaceAll(addresses, "N", n) }

// TestStartWithoutNetwork: a start before there is any network works; queries fail and
// say so, and once there is one they are answered, without a restart.
func TestStartWithoutNetwork(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	w.sh(noNetwork)
	p := w.start("sealed", w.runArgs(g)...)
	// Long enough for whatever backs off to have done so.
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out := w.dig(w.host, g, "@8.8.8.8", "early.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Fatalf("answered without a network:\n%s", out)
		}
	}
	w.sh(network())
	t.Logf("answered %s after the network came", w.answered(g, 10*time.Second).Round(time.Millisecond))
	w.stop(p)
	w.nothingLeft()
}

// TestServeWithoutNetwork is the same for `serve`, which does not hear of networks.
func TestServeWithoutNetwork(t *testing.T) {
	w := newWorld(t)
	w.sh(noNetwork)
	p := w.start("answering", append([]string{"serve", "--listen", "127.0.0.1:53"}, w.upstreamArgs()...)...)
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out := w.dig(w.host, nil, "@127.0.0.1", "early.example"); !strings.Contains(out, "status: SERVFAIL") {
			t.Fatalf("without a network:\n%s", out)
		}
	}
	w.sh(network())
	start := time.Now()
	w.until("an answer", func() bool {
		return strings.Contains(w.dig(w.host, nil, "+timeout=1", "@127.0.0.1", "late.example"), sealed4)
	})
	t.Logf("answered %s after the network came", time.Since(start).Round(time.Millisecond))
	w.stop(p)
}

// TestNetworkChangesUnderLoad: the host's address, route and interface change under load,
// with a TLS connection open. What was in flight may be lost with the network; what is
// asked once there is one again is answered.
func TestNetworkChangesUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	p := w.start("sealed", append([]string{"run", "--cgroup", g.Path}, w.upstreamArgs()...)...)
	r := w.startLoad(g, 500)
	for _, change := range []struct{ what, script string }{
		{"another address", address("77")},
		{"the address is back", address("2")},
		{"down and up", noNetwork + "; sleep 0.5; " + network()},
		{"no way out for a while", "ip route del default; sleep 0.5; ip route add default via 10.77.0.1"},
	} {
		w.sh(change.script)
		t.Logf("%s: answered after %s", change.what, w.answered(g, 10*time.Second).Round(time.Millisecond))
	}
	r.stop() // some of its queries were asked without a network
	r = w.startLoad(g, 500)
	time.Sleep(time.Second)
	if report := r.stop(); report.Lost+report.Reset+report.Wrong > 0 || report.UDP == 0 {
		t.Errorf("afterwards: %+v", report)
	}
	w.stop(p)
	w.nothingLeft()
}
