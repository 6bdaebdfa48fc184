// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"sotto/internal/netlab"
)

// below makes a cgroup below the sealed one.
func (s *testSeal) below(t *testing.T, name string) *netlab.Cgroup {
	t.Helper()
	g, err := s.lab.Below(s.group, name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// slotAddr is the n-th slot's address, of the first that is given out.
func (s *testSeal) slotAddr(n uint32) string {
	return netip.AddrPortFrom(nthAddr(s.cfg.Prefix4, firstSlotIndex+n), 53).String()
}

// A socket may name the virtual address that its own workload was given, and holds it then.
func TestVirtualAddressIsHeld(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	about := s.about("8.8.8.8:53") + " from 8.8.8.8:53"
	c.want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	c.want(strings.ReplaceAll("socket b udp4 => ok\nconnect b SLOT => ok\npeer b => 8.8.8.8:53\nsend b => ok\nrecv b => "+about+"\n"+
		"socket t tcp4 => ok\nconnect t SLOT => ok\nsend t => ok\nrecv t => "+s.about("8.8.8.8:53")+"\nclose t => ok\n"+
		"close a => ok\nsend b => ok\nrecv b => "+about, "SLOT", s.slotAddr(0)))
	if used, refs := s.slotsUsed(t); used != 1 || refs != 1 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
	// Given back, it still stands for that nameserver; a workload that it was never given
	// to may not name it.
	c.want("close b => ok\nsocket d udp4 => ok\nconnect d " + s.slotAddr(0) + " => ok\nsend d => ok\nrecv d => " + about)
}

// A connect that fails leaves a datagram socket connected to what it was connected to
// before, and holding that.
func TestFailedConnectKeepsSlot(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 100 * time.Millisecond })
	c, other := s.client(t), startClient(t, s.host, s.below(t, "other"))
	about := s.about("8.8.8.8:53") + " from 8.8.8.8:53"
	for _, args := range []string{"route add unreachable 203.0.113.0/24", "-6 route add unreachable 2001:db8:dead::/48"} {
		if out, err := s.host.Command(t.Context(), nil, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	c.want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nconnect a 203.0.113.1:54 => EHOSTUNREACH\npeer a => 8.8.8.8:53")
	if used, refs := s.slotsUsed(t); used != 1 || refs != 1 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
	// The other workload takes every slot in turn, and not that one.
	for i := range usable + 8 {
		other.want(fmt.Sprintf("socket b udp4 => ok\nconnect b 100.64.%d.%d:53 => ok\nclose b => ok", i>>8, i&255))
	}
	c.want("send a => ok\nrecv a => " + about + "\nclose a => ok")
	s.waitFree(t)
	if used, refs := s.slotsUsed(t); used != 0 || refs != 0 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
}

// A packet goes to a virtual address only if its socket holds it. What is tried here no
// connect can bring about at will (it takes two threads at the right moment), so the
// reference is taken out of the map.
func TestGuardComparesSlots(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	c.want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\n" +
		"socket t tcp4 => ok\nconnect t 8.8.8.8:53 => ok")
	spec, err := s.kernel.spec(&s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Another instance of the map holds nothing for these sockets.
	empty, err := ebpf.NewMap(spec.Maps["connected"])
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	var objects struct {
		Guard *ebpf.Program `ebpf:"sotto_guard_socket"`
	}
	maps := s.kernel.pins()
	maps["connected"] = empty
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		t.Fatal(err)
	}
	defer objects.Guard.Close()
	if err := replaceProgram(linkPin(s.kernel.dir, "guard", s.group.ID), objects.Guard); err != nil {
		t.Fatal(err)
	}
	c.want("send a => EPERM\nsend t => ok\nrecv t => EAGAIN") // TCP tries again, for nothing
	if n := s.Counters()["stopped_unheld"]; n < 2 {
		t.Errorf("stopped %d", n)
	}
}

// A datagram sent in pieces leaves with the last of them. By then its slot may have another
// meaning.
func TestLatePiece(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 200 * time.Millisecond })
	c := s.client(t)
	c.want("socket a udp4 => ok\nfirstto a 8.8.8.8:53 => ok")
	time.Sleep(s.cfg.Linger)
	if err := s.kernel.collect(s.cfg.Linger); err != nil {
		t.Fatal(err)
	}
	if used, _ := s.slotsUsed(t); used != 0 {
		t.Fatalf("%d slots in use", used)
	}
	c.want("lastto a 8.8.8.8:53 => EPERM\nsendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	if n := s.Counters()["stopped_unheld"]; n != 1 {
		t.Errorf("stopped %d", n)
	}
}

// Two threads connect one socket, over and over, while another workload takes and gives back
// slots: whatever the socket ends up connected to, what it sends is its own or is stopped.
func TestConnectRace(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 200 * time.Millisecond })
	c, other := s.client(t), startClient(t, s.host, s.below(t, "other"))
	c.want("socket a udp4 => ok")
	for range 20 {
		c.begin("connectrace a 8.8.8.8:53,8.8.4.4:53")
		other.want("churn 2000 2000 => ok*")
		if got := c.result(); got != "ok" {
			t.Fatal(got)
		}
		switch got := c.do("send a"); got {
		case "EPERM":
		case "ok":
			if got := c.do("recv a"); !strings.Contains(got, s.about("")+" from") {
				t.Errorf("got %q", got)
			}
		default:
			t.Errorf("send: %s", got)
		}
	}
	c.want("close a => ok")
	other.end()
	eventually(t, func() error {
		if err := s.kernel.collect(s.cfg.Linger); err != nil {
			return err
		}
		if used, refs := s.slotsUsed(t); used != 0 || refs != 0 {
			return fmt.Errorf("%d slots in use with %d references", used, refs)
		}
		return nil
	})
}

// Sockets that the kernel closes by itself run no release hook: subflows of MPTCP. Their
// slots come back all the same, also after a start that adopts them.
func TestRecount(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	if got := c.do("socket m mptcp4"); got != "ok" {
		t.Skipf("skipped: this kernel has no MPTCP: %s", got)
	}
	c.want("close m => ok\nsocket u udp4 => ok\nconnect u 8.8.8.8:53 => ok")
	if got := c.do("churnmptcp 400"); got != "ok" {
		t.Fatal(got)
	}
	used, refs := s.slotsUsed(t)
	if used < 400 {
		t.Errorf("only %d slots in use: the kernel runs the release hook, and this test shows nothing", used)
	}
	t.Logf("%d slots in use with %d references after 400 sockets were closed", used, refs)
	stop := s.stopListening
	all := func(s *testSeal) {
		eventually(t, func() error {
			if err := s.kernel.collect(s.cfg.Linger); err != nil {
				return err
			}
			if used, refs := s.slotsUsed(t); used != 1 || refs != 1 {
				return fmt.Errorf("%d slots in use with %d references, want the one that is held", used, refs)
			}
			return nil
		})
	}
	stop()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	s.Instance = openAt(t, s.host, s.cfg)
	if !s.kernel.adopted {
		t.Fatal("the maps were not adopted")
	}
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	all(s)
	// More than there are slots, with Run to collect them.
	s.run(t)
	for range 4 {
		waitFor(t, "slots are free", func() bool { return c.do("churnmptcp 400") == "ok" })
	}
	all(s)
	c.want("send u => ok\nrecv u => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\nclose u => ok")
}

// Whatever one subtree takes, half of what is left is another's, however many cgroups are
// made in the first.
func TestSlotShares(t *testing.T) {
	s := openSeal(t, nil)
	delegated, modest := s.below(t, "delegated"), startClient(t, s.host, s.below(t, "modest"))
	held := 0
	for i := range 6 {
		g, err := s.lab.Below(delegated, fmt.Sprintf("part%d", i))
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscan(startClient(t, s.host, g).do("hold g %d", usable), &n); err != nil {
			t.Fatal(err)
		}
		held += n
	}
	if held > 512 || held < 300 {
		t.Errorf("six cgroups of one subtree hold %d of %d slots", held, usable)
	}
	var n int
	if _, err := fmt.Sscan(modest.do("hold g %d", usable), &n); err != nil {
		t.Fatal(err)
	}
	if n < (usable-held)/2-1 {
		t.Errorf("another got %d, with %d of %d taken", n, held, usable)
	}
}

// A socket outlives the cgroup that it was connected in. Where that was removed before its
// path was looked up, the nearest ancestor stands for it, and no workload is made up.
func TestRemovedWorkload(t *testing.T) {
	s := openSeal(t, nil) // nothing runs that would look it up
	parent, err := NewCgroup(s.group.Path, "delegated")
	if err != nil {
		t.Fatal(err)
	}
	child, err := NewCgroup(parent.Path(), "short-lived")
	if err != nil {
		t.Fatal(err)
	}
	id, above := child.ID(), parent.ID()
	c := s.client(t)
	c.want("moveself " + child.Path() + " => ok\nsocket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nmoveself " + s.group.Path + " => ok")
	if err := child.Close(); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join("/", filepath.Base(s.group.Path), "delegated", "(removed)")
	if path, known := s.Workload(id); known || path != want {
		t.Errorf("%q, known %t; want %q", path, known, want)
	}
	if path, known := s.Workload(above); !known || path != filepath.Dir(want) {
		t.Errorf("%q, known %t", path, known)
	}
	c.want("send a => ok\nrecv a => 8.8.8.8:53 by " + want + " from 8.8.8.8:53\nclose a => ok")
	if err := parent.Close(); err != nil {
		t.Fatal(err)
	}
}
