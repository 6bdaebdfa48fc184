// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
	"sotto/intercept/network"
	"sotto/intercept/pins"
	"sotto/intercept/sockets"
	"sotto/internal/capture"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// virtual captures on the LAN until the test ends. It reports an error if a packet with a
// virtual address leaves the host.
func (s *testSeal) virtual(t *testing.T) {
	t.Helper()
	c, err := capture.Start(s.lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	prefixes := []netip.Prefix{s.cfg.Prefix4, s.cfg.Prefix6}
	t.Cleanup(func() {
		packets, err := c.Stop()
		if err != nil {
			t.Errorf("capture: %v", err)
		}
		for _, p := range packets {
			if contains(p.Src.Addr(), prefixes...) || contains(p.Dst.Addr(), prefixes...) {
				t.Errorf("a virtual address left the machine: %v", p)
			}
		}
	})
}

// A clean stop destroys sockets that are connected to virtual addresses, in all network
// namespaces, so that the next start can give the addresses to other workloads.
func TestStopEndsSockets(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "container")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.virtual(t)
	x := []*clienttest.Client{clienttest.Start(t, s.host, s.below(t, "x")), clienttest.Start(t, inside[0], s.group)}
	kinds := []string{"udp4 8.8.8.8:53", "udp6 [2001:db8::53]:53", "udp6 [::ffff:8.8.8.8]:53", "tcp4 8.8.8.8:53", "tcp6 [2001:db8::53]:53", "mptcp4 8.8.8.8:53"}
	for _, c := range x {
		for i, kind := range kinds {
			socket, to, _ := strings.Cut(kind, " ")
			if got := c.Do("socket s%d %s", i, socket); got != "ok" {
				continue // the kernel has no MPTCP
			}
			c.Want(fmt.Sprintf("connect s%d %s => ok\nsend s%d => ok", i, to, i))
		}
		c.Want("socket plain udp4 => ok\nconnect plain 8.8.8.8:54 => ok")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
	for _, c := range x {
		for i := range kinds {
			c.Do("recv s%d", i) // the answer to the earlier query, or the error
			if got := c.Do("send s%d", i); got == "ok" {
				t.Errorf("%s: still connected, to %s", kinds[i], c.Do("peer s%d", i))
			}
		}
		c.Want("peer plain => 8.8.8.8:54")
	}
	s.Instance = openAt(t, s.host, s.cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	y := s.below(t, "y")
	clienttest.Start(t, s.host, y).Want("socket a udp4 => ok\nconnect a 1.1.1.1:53 => ok\nsend a => ok\nrecv a => 1.1.1.1:53 by /" +
		filepath.Base(s.group.Path) + "/y from 1.1.1.1:53")
}

// A stop also destroys sockets that their program has closed, and whose queries the kernel
// retransmits until they are acknowledged: they hold no slot, and would continue after the
// stop.
func TestStopEndsClosedSockets(t *testing.T) {
	nft := labtest.NeedTool(t, "nft")
	s := openSeal(t, nil)
	s.virtual(t)
	c := s.client(t)
	c.Want("socket a tcp4 => ok\nconnect a 8.8.8.8:53 => ok\nsocket b tcp6 => ok\nconnect b [2001:db8::53]:53 => ok")
	// From now on the listener acknowledges nothing.
	rules := "table inet silent { chain in { type filter hook input priority 0; tcp dport 53 drop; }; }"
	err := s.Do(func() error {
		out, err := exec.Command(nft, rules).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Want("send a => ok\nsend b => ok\nclose a => ok\nclose b => ok")
	if _, refs := s.slotsUsed(t); refs != 0 {
		t.Errorf("%d references", refs)
	}
	closed := func() (n int) {
		err := s.host.Do(func() error {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				all, err := sockets.List(family, unix.IPPROTO_TCP)
				if err != nil {
					return err
				}
				for _, socket := range all {
					if contains(socket.Remote.Addr(), s.cfg.Prefix4, s.cfg.Prefix6) {
						n++
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := closed(); n != 2 {
		t.Fatalf("%d closed sockets have data to send, want 2", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
	t.Logf("%d closed sockets are left", closed()) // kernels such as 5.10 keep them, with nothing to send
	time.Sleep(2 * time.Second)                    // long enough for several retransmissions (RFC 6298)
}

// If a socket cannot be destroyed (it is in a network namespace without a process and without
// a name), a stop leaves the routes that keep its packets on the machine. The next start
// adopts its slot, so that the socket still belongs to its workload.
func TestStopKeepsWhatIsHeld(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "container")
	if err := netns.Delete(inside[0].Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := inside[0].NS.Mount(inside[0].Name); err != nil {
			t.Error(err)
		}
	})
	cfg := sealTestConfig(t, s.group)
	var stop func()
	start := func() {
		s.Instance = openAt(t, s.host, cfg)
		stop = listen(t, s.Instance)
		if err := s.Attach(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	needWalk(t, s.kernel)
	s.virtual(t)
	x := clienttest.Start(t, s.host, s.below(t, "x"))
	x.Want(fmt.Sprintf("socketin a udp4 /proc/%d/fd/%d => ok", os.Getpid(), inside[0].NS.Fd()))
	x.Want("connect a 9.9.9.9:53 => ok\nsend a => ok\nrecv a => " + s.about("9.9.9.9:53") + "/x from 9.9.9.9:53")
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if there, err := pins.HasHooks(pins.Dir(cfg.BPFFS, cfg.Name)); !there || err != nil {
		t.Fatalf("nothing was left: %v", err)
	}
	x.Want("send a => EPERM\nsocket b udp4 => ok\nconnect b 9.9.9.9:53 => ok\npeer b => 9.9.9.9:53\nsend b => ok\nrecv b => ECONNREFUSED\nclose b => ok")
	start()
	if !s.kernel.adopted {
		t.Fatal("the maps were not adopted")
	}
	clienttest.Start(t, s.host, s.below(t, "y")).Want("socket a udp4 => ok\nconnect a 1.2.3.1:53 => ok")
	x.Want("send a => ok\nrecv a => " + s.about("9.9.9.9:53") + "/x from 9.9.9.9:53\nclose a => ok")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
}

// After a crash sockets keep their slots. Down destroys the sockets before it removes the
// slots.
func TestDownEndsSockets(t *testing.T) {
	s := openSeal(t, nil)
	s.virtual(t)
	x := clienttest.Start(t, s.host, s.below(t, "x"))
	x.Want("socket a udp4 => ok\nconnect a 9.9.9.9:53 => ok\nsocket b tcp6 => ok\nconnect b [2001:db8::53]:53 => ok\nsocket c udp4 => ok\nconnect c 8.8.8.8:54 => ok")
	s.stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := downAt(s.host, s.cfg); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
	x.Want("recv a => ECONNABORTED\nrecv b => ECONNABORTED\npeer c => 8.8.8.8:54")
	for _, socket := range []string{"a", "b"} {
		if got := x.Do("peer " + socket); got != "ENOTCONN" {
			t.Errorf("socket %s: peer %s", socket, got)
		}
	}
}

// An instance that seals other cgroups than its dead predecessor cannot adopt the maps, and
// destroys the sockets that are connected to virtual addresses.
func TestStartEndsStrays(t *testing.T) {
	s := openSeal(t, nil)
	s.virtual(t)
	x := s.client(t)
	x.Want("socket a udp4 => ok\nconnect a 9.9.9.9:53 => ok")
	s.stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	other := s.unsealed(t, "other")
	cfg := s.cfg
	cfg.Cgroups = []string{other.Path}
	next := openAt(t, s.host, cfg)
	if next.kernel.adopted {
		t.Fatal("maps were adopted")
	}
	listen(t, next)
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	x.Want("recv a => ECONNABORTED\npeer a => ENOTCONN")
	clienttest.Start(t, s.host, other).Want("socket a udp4 => ok\nconnect a 1.2.3.1:53 => ok\nsend a => ok\nrecv a => 1.2.3.1:53 by /" +
		filepath.Base(other.Path) + " from 1.2.3.1:53")
}

// A start with other prefixes destroys the sockets that are connected to addresses of the old ones.
// Until then their packets stay on this machine, whether or not there is a guard.
func TestStartWithOtherPrefixes(t *testing.T) {
	other := func(Config) (p4, p6 netip.Prefix) {
		return network.NthAssignment(60).Prefix4, network.NthAssignment(60).Prefix6
	}
	longer := func(cfg Config) (p4, p6 netip.Prefix) {
		return netip.PrefixFrom(cfg.Prefix4.Addr(), 24), netip.PrefixFrom(cfg.Prefix6.Addr(), 96)
	}
	t.Run("guard drops", func(t *testing.T) { testOtherPrefixes(t, GuardDrop, other) })
	t.Run("no guard", func(t *testing.T) { testOtherPrefixes(t, GuardOff, other) })
	t.Run("overlapping", func(t *testing.T) { testOtherPrefixes(t, GuardDrop, longer) })
}

func testOtherPrefixes(t *testing.T, mode GuardMode, prefixes func(Config) (p4, p6 netip.Prefix)) {
	s := openSeal(t, func(cfg *Config) { cfg.Guard = mode })
	s.virtual(t)
	x := s.client(t)
	x.Want("socket a udp4 => ok\nconnect a 9.9.9.9:53 => ok\nsocket b tcp6 => ok\nconnect b [2001:db8::53]:53 => ok\nsocket c udp4 => ok")
	s.stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	// The first start fails, because a prefix is in use.
	cfg := s.cfg
	cfg.Prefix4, cfg.Prefix6 = netip.MustParsePrefix("10.77.0.0/24"), network.NthAssignment(61).Prefix6
	err := s.host.Do(func() error {
		i, err := Open(t.Context(), cfg)
		if err == nil {
			err = i.Close()
		}
		return err
	})
	if _, is := errors.AsType[*network.ConflictError](err); !is {
		t.Fatalf("opened with the prefix of the LAN: %v", err)
	}
	cfg.Prefix4, cfg.Prefix6 = prefixes(s.cfg)
	var next *Instance
	if n := s.crossed(t, func() {
		next = openAt(t, s.host, cfg)
		x.Do("send a")
		x.Do("sendto c 8.8.8.8:53") // redirected to an old address by the old hook
	}); n != 0 {
		t.Errorf("%d packets left before the new hooks were attached", n)
	}
	listen(t, next)
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	x.Want("recv a => ECONNABORTED\npeer a => ENOTCONN\nrecv b => ECONNABORTED")
	x.Want("socket d udp4 => ok\nsendto d 1.2.3.1:53 => ok\nrecv d => 1.2.3.1:53" + s.about("") + " from 1.2.3.1:53")
	if len(next.earlier) > 0 {
		t.Errorf("earlier: %v", next.earlier)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
	nothingLeft(t, s.host, cfg)
}

// A successor that seals one more cgroup destroys the plain sockets of that cgroup, but not
// those of the others, which are sealed.
func TestTakeoverEndsPlainSockets(t *testing.T) {
	s := openSeal(t, nil)
	more := s.unsealed(t, "more")
	c, plain := s.client(t), clienttest.Start(t, s.host, more)
	about := s.about("8.8.8.8:53") + " from 8.8.8.8:53"
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + about)
	plain.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsocket b udp6 => ok\nconnect b [::ffff:8.8.8.8]:53 => ok")
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Cgroups = append(cfg.Cgroups, more.Path)
	next := openAt(t, s.host, cfg)
	if !next.kernel.adopted {
		t.Fatal("the maps were not adopted")
	}
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	plain.Want("recv a => ECONNABORTED\nrecv b => ECONNABORTED\npeer a => ENOTCONN")
	c.Want("send a => ok\nrecv a => " + about)
}

// What an earlier process left is not forgotten when a start fails between Open and Attach, although
// the next one adopts the maps of the failed start: the sockets of the earlier process are destroyed
// before the routes that keep their packets on this machine are removed.
func TestEarlierPrefixAfterFailedStart(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Guard = GuardOff }) // which would stop them as well
	s.virtual(t)
	c := s.client(t)
	c.Want("socket a udp4 => ok\nconnect a 9.9.9.9:53 => ok")
	s.stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	cfg, other := s.cfg, network.NthAssignment(60)
	cfg.Prefix4, cfg.Prefix6 = other.Prefix4, other.Prefix6
	failed := openAt(t, s.host, cfg)
	if err := failed.Close(); err != nil {
		t.Fatal(err)
	}
	next := openAt(t, s.host, cfg)
	if !next.kernel.adopted || len(next.earlier) == 0 {
		t.Fatalf("adopted: %t; earlier processes: %v", next.kernel.adopted, next.earlier)
	}
	listen(t, next)
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	if len(next.earlier) != 0 {
		t.Errorf("the record still names %v", next.earlier)
	}
	if n := s.crossed(t, func() { c.Want("send a => EDESTADDRREQ") }); n != 0 {
		t.Errorf("%d packets left", n)
	}
}
