// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/intercept/clienttest"
	"sotto/intercept/feature"
	"sotto/internal/capture"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// wire captures on the LAN until the test ends. It reports an error if a packet to or from
// port 53 leaves the host, or one whose port is not visible.
func (s *testSeal) wire(t *testing.T) {
	t.Helper()
	c, err := capture.Start(s.lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		packets, err := c.Stop()
		if err != nil {
			t.Errorf("capture: %v", err)
		}
		for _, p := range packets {
			if p.Opaque() || len(capture.Port([]capture.Packet{p}, 53)) > 0 {
				t.Errorf("left the machine: %v", p)
			}
		}
	})
}

// crossed returns the number of packets to port 53 that leave the host during a step.
func (s *testSeal) crossed(t *testing.T, step func()) int {
	t.Helper()
	c, err := capture.Start(s.lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	step()
	packets, err := c.Stop()
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	return len(capture.Port(packets, 53))
}

// wantCounts compares the counters of the guard. Those not in want must be 0.
func (s *testSeal) wantCounts(t *testing.T, want map[string]uint64) {
	t.Helper()
	got := map[string]uint64{}
	for name, n := range s.Counters() {
		guards := strings.HasPrefix(name, "stopped_") || strings.HasPrefix(name, "redirected_") || slices.Contains([]string{"escaped", "outside", "open", "bound"}, name)
		if n > 0 && guards {
			got[name] = n
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// bothWays runs a test with the guard's programs as tcx links, if the kernel has them, and as
// filters of clsact, which all kernels have.
func bothWays(t *testing.T, test func(*testing.T, *testSeal)) {
	for name, filters := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			s := openSealed(t, nil, func(i *Instance) {
				if filters {
					i.guard.UseFilters()
				}
			})
			if !filters && s.guard.UsesFilters() {
				return // the kernel has no tcx (before Linux 6.6): both are the same
			}
			test(t, s)
		})
	}
}

// A socket that is bound to an interface is answered: the guard redirects its packets to the
// listener, and the replies to that interface.
func TestPinnedToInterface(t *testing.T) { bothWays(t, testPinned) }

func testPinned(t *testing.T, s *testSeal) {
	s.wire(t)
	s.client(t).Want(strings.ReplaceAll(`
		socket a udp4 => ok
		bind a eth0 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => 8.8.8.8:53W from 8.8.8.8:53
		connect a 8.8.4.4:53 => ok
		send a => ok
		recv a => 8.8.4.4:53W from 8.8.4.4:53
		peer a => 8.8.4.4:53
		name a => 10.77.0.2
		socket b tcp4 => ok
		bind b eth0 => ok
		connect b 8.8.8.8:53 => ok
		send b => ok
		recv b => 8.8.8.8:53W
		socket c udp6 => ok
		bind c eth0 => ok
		sendto c [2001:db8::53]:53 => ok
		recv c => [2001:db8::53]:53W from [2001:db8::53]:53
		socket d tcp6 => ok
		bind d eth0 => ok
		connect d [2001:db8::53]:53 => ok
		send d => ok
		recv d => [2001:db8::53]:53W
		socket e udp4 => ok
		pin e eth0 => ok
		sendto e 8.8.8.8:53 => ok
		recv e => 8.8.8.8:53W from 8.8.8.8:53
		socket f udp6 => ok
		pin f eth0 => ok
		sendto f [2001:db8::53]:53 => ok
		recv f => [2001:db8::53]:53W from [2001:db8::53]:53
		socket g udp6 => ok
		sendto g [fe80::1%eth0]:53 => ok
		recv g => [fe80::1]:53W from [fe80::1]:53
		connect g [fe80::1%eth0]:53 => ok
		send g => ok
		recv g => [fe80::1]:53W from [fe80::1]:53`, "W", s.about("")))
	n := s.Counters()
	if n["redirected_in"] == 0 || n["redirected_back"] == 0 || n["bound"] != 0 || n["escaped"] != 0 {
		t.Errorf("counted %v", n)
	}
}

// A strict reverse path filter would drop the redirected replies, so the query is refused at
// once. IPv6 has no such filter.
func TestPinnedBehindStrictFilter(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.host.Sysctl("net/ipv4/conf/eth0/rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	s.guard.Reconcile()
	errno := refusal()
	s.client(t).Want(strings.NewReplacer("ERR", errno, "W", s.about("")).Replace(`
		socket a udp4 => ok
		bind a eth0 => ok
		sendto a 8.8.8.8:53 => ERR
		socket b udp6 => ok
		bind b eth0 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => [2001:db8::53]:53W from [2001:db8::53]:53`))
}

// refusal returns the error of a send that a hook refuses.
func refusal() string {
	if !feature.HasSetRetval() {
		return "EPERM"
	}
	return "EHOSTUNREACH"
}

// A change of the reverse path filter takes effect at once, although it is not a link event.
func TestReversePathFilterChanges(t *testing.T) {
	s := openSeal(t, nil)
	s.run(t)
	c := s.client(t)
	c.Want("socket a udp4 => ok\nbind a eth0 => ok")
	for _, tt := range []struct{ setting, value, want string }{
		{"eth0", "1", refusal()},
		{"eth0", "0", "ok"},
		{"all", "1", refusal()},
		{"eth0", "2", "ok"}, // loose: the kernel uses the maximum
	} {
		if err := s.host.Sysctl("net/ipv4/conf/"+tt.setting+"/rp_filter", tt.value); err != nil {
			t.Fatal(err)
		}
		start, got := time.Now(), ""
		for got != tt.want && time.Since(start) < labtest.Patience(3*time.Second) { // the periodic reconciliation is later
			got = c.Do("sendto a 8.8.8.8:53")
			time.Sleep(10 * time.Millisecond)
		}
		if got != tt.want {
			t.Errorf("%s/rp_filter = %s: got %s, want %s", tt.setting, tt.value, got, tt.want)
		}
	}
}

// pastHooks is a script with queries that bypass the hooks.
const pastHooks = `
	socket a raw4 => ok
	rawto a 8.8.8.8:53 => RAW
	socket b raw6 => ok
	rawto b [2001:db8::53]:53 => RAW
	frame eth0 8.8.8.8:53 => FRAME
	frame eth0 [2001:db8::53]:53 => FRAME
	vlan eth0 8.8.8.8:53 => FRAME`

func TestGuardStops(t *testing.T) { bothWays(t, testStops) }

func testStops(t *testing.T, s *testSeal) {
	s.wire(t)
	s.client(t).Want(strings.NewReplacer("RAW", "EPERM", "FRAME", "ENOBUFS").Replace(pastHooks))
	s.wantCounts(t, map[string]uint64{"stopped_socket": 2, "stopped_packet": 3})
}

// In mode GuardCount queries are counted and leave; in mode GuardOff they are not counted.
func TestGuardCounts(t *testing.T) {
	for mode, want := range map[GuardMode]map[string]uint64{
		GuardCount: {"stopped_socket": 2, "stopped_packet": 3},
		GuardOff:   {},
	} {
		s := openSeal(t, func(cfg *Config) { cfg.Guard = mode })
		n := s.crossed(t, func() { s.client(t).Want(strings.NewReplacer("RAW", "ok", "FRAME", "ok").Replace(pastHooks)) })
		if n < 4 { // the capture does not parse tagged frames
			t.Errorf("mode %d: %d packets left", mode, n)
		}
		s.wantCounts(t, want)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Queries of other cgroups are let through and not counted.
func TestGuardLeavesOthersAlone(t *testing.T) {
	s := openSeal(t, nil)
	other, err := s.lab.Cgroup("other")
	if err != nil {
		t.Fatal(err)
	}
	n := s.crossed(t, func() {
		clienttest.Start(t, s.host, other).Want(strings.NewReplacer("RAW", "ok", "FRAME", "ok").Replace(pastHooks))
	})
	if n < 4 {
		t.Errorf("%d packets left", n)
	}
	s.wantCounts(t, map[string]uint64{})
}

// An interface without Ethernet frames works, too: the guard adds a frame header on the way to
// the listener.
func TestPinnedToTunnel(t *testing.T) { bothWays(t, testTunnel) }

func testTunnel(t *testing.T, s *testSeal) {
	addTunnel(t, s.host, "tunnel")
	if err := s.host.Addr("tunnel", "10.79.0.1/24"); err != nil {
		t.Fatal(err)
	}
	s.guard.Reconcile()
	s.client(t).Want(strings.ReplaceAll(`
		socket a udp4 => ok
		bind a tunnel => ok
		sendto a 8.8.8.8:53 => ok
		recv a => 8.8.8.8:53W from 8.8.8.8:53
		socket b tcp4 => ok
		bind b tunnel => ok
		connect b 8.8.8.8:53 => ok
		send b => ok
		recv b => 8.8.8.8:53W
		socket r raw4 => ok
		bind r tunnel => ok
		rawto r 8.8.8.8:53 => EPERM`, "W", s.about("")))
}
