// SPDX-License-Identifier: Apache-2.0

package run

import (
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

const (
	noNetwork = "ip link set eth0 down; ip address flush dev eth0"
	addresses = "ip address flush dev eth0; ip address add 10.77.0.N/24 dev eth0; ip address add fd77::N/64 dev eth0 nodad; " +
		"ip route replace default via 10.77.0.1; ip -6 route replace default via fd77::1"
)

func network() string { return "ip link set eth0 up; " + address("2") }

// address returns a script that sets the addresses and routes of the host.
func address(n string) string { return strings.ReplaceAll(addresses, "N", n) }

// TestStartWithoutNetwork checks that sotto starts without a network. Queries fail, and are
// answered when there is a network, without a restart.
func TestStartWithoutNetwork(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	w.Shell(noNetwork)
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	// Long enough for all backoffs to have begun.
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out := w.Dig(w.Host, g, "@8.8.8.8", "early.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Fatalf("answered without a network:\n%s", out)
		}
	}
	w.Shell(network())
	t.Logf("answered %s after the network was up", w.WaitAnswered(g, 10*time.Second).Round(time.Millisecond))
	w.Stop(p)
	w.NothingLeft()
}

// TestServeWithoutNetwork is the same for `serve`, which is not notified of network changes.
func TestServeWithoutNetwork(t *testing.T) {
	w := newWorld(t)
	w.Shell(noNetwork)
	p := w.Start("answering", append([]string{"serve", "--listen", "127.0.0.1:53"}, w.UpstreamArgs()...)...)
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out := w.Dig(w.Host, nil, "@127.0.0.1", "early.example"); !strings.Contains(out, "status: SERVFAIL") {
			t.Fatalf("without a network:\n%s", out)
		}
	}
	w.Shell(network())
	start := time.Now()
	w.Until("an answer", func() bool {
		return strings.Contains(w.Dig(w.Host, nil, "+timeout=1", "@127.0.0.1", "late.example"), e2e.Sealed4)
	})
	t.Logf("answered %s after the network was up", time.Since(start).Round(time.Millisecond))
	w.Stop(p)
}

// TestNetworkChangesUnderLoad changes the host's address, route and interface under load,
// with a TLS connection open. Queries in flight may be lost with the network. Later queries
// are answered, and Sotto does not wait until the connection times out.
func TestNetworkChangesUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", append([]string{"run", "--cgroup", g.Path}, w.UpstreamArgs()...)...)
	quickest := time.Hour
	for range 3 {
		for _, n := range []string{"77", "2"} {
			quickest = min(quickest, w.changeNetwork(g, "", address(n)))
		}
	}
	t.Logf("after another address: answered within %s", quickest.Round(time.Millisecond))
	// The fastest of several, because the machine may be slow. If Sotto were not notified,
	// it would wait for the timeout each time.
	if quickest >= upstream.DefaultSilentTimeout {
		t.Errorf("after another address the first answer took at least %s: as long as the timeout of a silent connection", quickest)
	}
	w.changeNetwork(g, noNetwork, network())
	w.changeNetwork(g, "ip route del default; ip route del 10.77.0.0/24", "ip route add 10.77.0.0/24 dev eth0 src 10.77.0.2; ip route add default via 10.77.0.1")
	w.Stop(p)
	w.NothingLeft()
}

// changeNetwork runs the scripts down, which may be empty, and up under load. It returns the
// time from the change until a new name was answered.
func (w world) changeNetwork(g *netlab.Cgroup, down, up string) time.Duration {
	w.T.Helper()
	const rate = 500
	r := w.StartLoad(g, rate)
	handled := w.Upstream.Stats().Queries()
	w.Until("the load to be answered", func() bool { return w.Upstream.Stats().Queries() > handled+100 })
	if n := w.Upstream.Stats().Open; n == 0 {
		w.T.Error("no TLS connection is open")
	}
	if down != "" {
		w.Shell(down)
		if reply := w.DigFresh(g); strings.Contains(reply, e2e.Sealed4) {
			w.T.Errorf("answered without a network, after %q:\n%s", down, reply)
		}
	}
	start := time.Now()
	w.Shell(up)
	w.WaitAnswered(g, 20*time.Second)
	took := time.Since(start)
	_ = r.Cmd.Process.Kill() // some of its queries were sent without a network
	_ = r.Cmd.Wait()
	r, handled = w.StartLoad(g, rate), w.Upstream.Stats().Queries()
	w.Until("the load to be answered again", func() bool { return w.Upstream.Stats().Queries() > handled+100 })
	if err := r.Stop().Complete(); err != nil {
		w.T.Errorf("after %q: %v", up, err)
	}
	return took
}

// TestInsideSeal checks that Sotto answers from inside of its own seal, as under a seal of the
// whole host, also if the host has no IPv6 address but link-local ones: the replies then go to
// an address of the prefix.
func TestInsideSeal(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	w.Shell("ip -6 address flush dev eth0 scope global")
	g := w.Cgroup("workload")
	p := w.StartIn(g, "msg=sealed", w.RunArgs(g)...)
	for _, args := range [][]string{{}, {"+tcp"}} {
		out := w.Dig(w.Host, g, append(args, "+tries=1", "@2001:db8::53", "inside.example")...)
		if !strings.Contains(out, e2e.Sealed4) {
			t.Errorf("dig %s: not answered:\n%s", args, out)
		}
	}
	w.Stop(p)
	w.NothingLeft()
}
