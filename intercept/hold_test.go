// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/intercept/feature"
	"sotto/intercept/network"
	"sotto/intercept/pins"
	"sotto/intercept/references"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// below creates a cgroup below the sealed one.
func (s *testSeal) below(t *testing.T, name string) *netlab.Cgroup {
	t.Helper()
	g, err := s.lab.Below(s.group, name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// slotAddr returns the IPv4 address and port of the n-th slot that is allocated.
func (s *testSeal) slotAddr(n uint32) string {
	return netip.AddrPortFrom(network.NthAddr(s.cfg.Prefix4, network.FirstSlot+n), 53).String()
}

// A socket may connect to a virtual address of its own workload, and then holds its slot. It
// sees the address that it named.
func TestVirtualAddressIsHeld(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	about := s.about("8.8.8.8:53") + " from " + s.slotAddr(0)
	c.Want(strings.ReplaceAll("socket b udp4 => ok\nconnect b SLOT => ok\npeer b => SLOT\nsend b => ok\nrecv b => "+about+"\n"+
		"socket t tcp4 => ok\nconnect t SLOT => ok\nsend t => ok\nrecv t => "+s.about("8.8.8.8:53")+"\nclose t => ok\n"+
		"close a => ok\nsend b => ok\nrecv b => "+about, "SLOT", s.slotAddr(0)))
	if used, refs := s.slotsUsed(t); used != 1 || refs != 1 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
	// A freed slot still stands for that nameserver, but other workloads may not use it.
	c.Want("close b => ok\nsocket d udp4 => ok\nconnect d " + s.slotAddr(0) + " => ok\nsend d => ok\nrecv d => " + about)
}

// If a connect fails, a datagram socket stays connected to its previous peer, and holds that
// slot.
func TestFailedConnectKeepsSlot(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 100 * time.Millisecond })
	c, other := s.client(t), clienttest.Start(t, s.host, s.below(t, "other"))
	about := s.about("8.8.8.8:53") + " from 8.8.8.8:53"
	for _, args := range []string{"route add unreachable 203.0.113.0/24", "-6 route add unreachable 2001:db8:dead::/48"} {
		if out, err := s.host.Command(t.Context(), nil, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nconnect a 203.0.113.1:54 => EHOSTUNREACH\npeer a => 8.8.8.8:53")
	if used, refs := s.slotsUsed(t); used != 1 || refs != 1 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
	// The other workload uses all other slots in turn.
	for i := range usable + 8 {
		other.Want(fmt.Sprintf("socket b udp4 => ok\nconnect b 100.64.%d.%d:53 => ok\nclose b => ok", i>>8, i&255))
	}
	c.Want("send a => ok\nrecv a => " + about + "\nclose a => ok")
	s.waitFree(t)
	if used, refs := s.slotsUsed(t); used != 0 || refs != 0 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
}

// A packet is sent to a virtual address only if its socket holds the slot. No sequence of
// connects reliably leads to another state (it takes two threads at the right moment), so
// the test removes the reference from the map.
func TestGuardComparesSlots(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\n" +
		"socket t tcp4 => ok\nconnect t 8.8.8.8:53 => ok")
	spec, err := s.kernel.spec(&s.cfg, loadObject)
	if err != nil {
		t.Fatal(err)
	}
	// A new instance of the map has no references of these sockets.
	empty, err := ebpf.NewMap(spec.Maps["connected"])
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	var objects struct {
		Guard *ebpf.Program `ebpf:"sotto_guard_socket"`
	}
	maps := s.kernel.pinnedMaps()
	maps["connected"] = empty
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		t.Fatal(err)
	}
	defer objects.Guard.Close()
	if err := pins.Replace(pins.Hook(s.kernel.dir, "guard", s.group.ID), objects.Guard); err != nil {
		t.Fatal(err)
	}
	c.Want("send a => EPERM\nsend t => ok\nrecv t => EAGAIN") // TCP retransmits, without success
	if n := s.Counters()["stopped_unheld"]; n < 2 {
		t.Errorf("stopped %d", n)
	}
}

// A datagram that is sent in pieces leaves with the last piece. By then its slot may stand for
// another nameserver.
func TestLatePiece(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 200 * time.Millisecond })
	c := s.client(t)
	c.Want("socket a udp4 => ok\nfirstto a 8.8.8.8:53 => ok")
	time.Sleep(s.cfg.Linger)
	if err := s.kernel.collect(s.cfg.Linger); err != nil {
		t.Fatal(err)
	}
	if used, _ := s.slotsUsed(t); used != 0 {
		t.Fatalf("%d slots in use", used)
	}
	c.Want("lastto a 8.8.8.8:53 => EPERM\nsendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	if n := s.Counters()["stopped_unheld"]; n != 1 {
		t.Errorf("stopped %d", n)
	}
}

// Two threads connect one socket repeatedly while another workload allocates and frees slots.
// Whatever the socket's peer is in the end, its packets go to a slot of its own, or are
// stopped.
func TestConnectRace(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 200 * time.Millisecond })
	c, other := s.client(t), clienttest.Start(t, s.host, s.below(t, "other"))
	c.Want("socket a udp4 => ok")
	for range 20 {
		c.Begin("connectrace a 8.8.8.8:53,8.8.4.4:53")
		other.Want("churn 2000 2000 => ok*")
		if got := c.Result(); got != "ok" {
			t.Fatal(got)
		}
		switch got := c.Do("send a"); got {
		case "EPERM":
		case "ok":
			if got := c.Do("recv a"); !strings.Contains(got, s.about("")+" from") {
				t.Errorf("got %q", got)
			}
		default:
			t.Errorf("send: %s", got)
		}
	}
	c.Want("close a => ok")
	other.Stop()
	labtest.Eventually(t, func() error {
		if err := s.kernel.collect(s.cfg.Linger); err != nil {
			return err
		}
		if used, refs := s.slotsUsed(t); used != 0 || refs != 0 {
			return fmt.Errorf("%d slots in use with %d references", used, refs)
		}
		return nil
	})
}

// needWalk skips the test on a kernel that cannot walk over the storage of sockets, or whose
// security policy refuses every program that does, as lockdown does on some.
func needWalk(t *testing.T, k *kernel) {
	t.Helper()
	err := k.refs.Load()
	if !errors.Is(err, references.ErrUnsupported) {
		return
	}
	if !references.New(references.Prefixes{}, 1).Supported() {
		t.Skipf("skipped: %v", err)
	}
	p, trivial := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_sk_storage_map", License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if trivial == nil {
		t.Fatalf("%v, but loads another such program", errors.Join(err, p.Close()))
	}
	t.Skipf("skipped: %v", err)
}

// The kernel runs no release hook for sockets that it closes itself, such as MPTCP subflows.
// Their slots are freed nevertheless, also by a process that adopts them.
func TestRecount(t *testing.T) {
	s := openSeal(t, nil)
	needWalk(t, s.kernel)
	c := s.client(t)
	if got := c.Do("socket m mptcp4"); got != "ok" {
		t.Skipf("skipped: this kernel has no MPTCP: %s", got)
	}
	c.Want("close m => ok\nsocket u udp4 => ok\nconnect u 8.8.8.8:53 => ok")
	if got := c.Do("churnmptcp 400"); got != "ok" {
		t.Fatal(got)
	}
	used, refs := s.slotsUsed(t)
	if used < 400 {
		t.Errorf("only %d slots in use: the kernel runs the release hook, so this test is ineffective", used)
	}
	t.Logf("%d slots in use with %d references after 400 sockets were closed", used, refs)
	stop := s.stopListening
	all := func(s *testSeal) {
		labtest.Eventually(t, func() error {
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
	// More sockets than there are slots, while Run collects them.
	s.run(t)
	for range 4 {
		labtest.WaitFor(t, "slots are free", func() bool { return c.Do("churnmptcp 400") == "ok" })
	}
	all(s)
	c.Want("send u => ok\nrecv u => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\nclose u => ok")
}

// Half of the slots that one subtree does not use are available to another one, however many
// cgroups the first one contains.
func TestSlotShares(t *testing.T) {
	s := openSeal(t, nil)
	delegated, modest := s.below(t, "delegated"), clienttest.Start(t, s.host, s.below(t, "modest"))
	held := 0
	for i := range 6 {
		g, err := s.lab.Below(delegated, fmt.Sprintf("part%d", i))
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscan(clienttest.Start(t, s.host, g).Do("hold g %d", usable), &n); err != nil {
			t.Fatal(err)
		}
		held += n
	}
	if held > 512 || held < 300 {
		t.Errorf("six cgroups of one subtree hold %d of %d slots", held, usable)
	}
	var n int
	if _, err := fmt.Sscan(modest.Do("hold g %d", usable), &n); err != nil {
		t.Fatal(err)
	}
	if n < (usable-held)/2-1 {
		t.Errorf("another one got %d, with %d of %d in use", n, held, usable)
	}
}

// A socket can outlive its cgroup. If that was removed before its path was looked up, the
// nearest ancestor is returned.
func TestRemovedWorkload(t *testing.T) {
	s := openSeal(t, nil) // without Run, which would look it up
	parent, err := cgroup.Create(s.group.Path, "delegated")
	if err != nil {
		t.Fatal(err)
	}
	child, err := cgroup.Create(parent.Path(), "short-lived")
	if err != nil {
		t.Fatal(err)
	}
	id, above := child.ID(), parent.ID()
	c := s.client(t)
	c.Want("moveself " + child.Path() + " => ok\nsocket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nmoveself " + s.group.Path + " => ok")
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
	c.Want("send a => ok\nrecv a => 8.8.8.8:53 by " + want + " from 8.8.8.8:53\nclose a => ok")
	if err := parent.Close(); err != nil {
		t.Fatal(err)
	}
}

// A workload cannot use the virtual addresses of another one, except with forged packets.
func TestForeignSlot(t *testing.T) {
	s := openSeal(t, nil)
	first, err := s.lab.Below(s.group, "first")
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.lab.Below(s.group, "second")
	if err != nil {
		t.Fatal(err)
	}
	a, b := clienttest.Start(t, s.host, first), clienttest.Start(t, s.host, second)
	about := s.about("8.8.8.8:53") + "/first from "
	a.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => " + about + "8.8.8.8:53\n" +
		"socket b udp6 => ok\nsendto b [2001:db8::53]:53 => ok\nrecv b => " + s.about("[2001:db8::53]:53") + "/first from [2001:db8::53]:53")
	slot4 := netip.AddrPortFrom(network.NthAddr(s.cfg.Prefix4, network.FirstSlot), 53).String()
	slot6 := netip.AddrPortFrom(network.NthAddr(s.cfg.Prefix6, network.FirstSlot+1), 53).String()
	free := netip.AddrPortFrom(network.NthAddr(s.cfg.Prefix4, network.FirstSlot+9), 53).String()
	errno := "EHOSTUNREACH"
	if !feature.HasSetRetval() {
		errno = "EPERM"
	}
	b.Want(strings.NewReplacer("FOUR", slot4, "SIX", slot6, "FREE", free, "ERR", errno, "MAPPED", strings.Replace("[::ffff:"+slot4, ":53", "]:53", 1)).Replace(`
		socket a udp4 => ok
		sendto a FOUR => ERR
		connect a FOUR => ERR
		sendto a FREE => ERR
		socket b udp6 => ok
		sendto b SIX => ERR
		connect b SIX => ERR
		connect b MAPPED => ERR
		socket c tcp4 => ok
		connect c FOUR => ERR`))
	if n := s.Counters()["foreign"]; n != 7 {
		t.Errorf("counted %d", n)
	}
	// Its own virtual address works like the nameserver's address.
	a.Want("sendto a " + slot4 + " => ok\nrecv a => " + about + slot4 + "\nsendto a 8.8.8.8:53 => ok\nrecv a => " + about + "8.8.8.8:53")
	// A connection that the kernel closes works, too.
	a.Want("socket c tcp4 => ok\nconnect c 8.8.8.8:53 => ok\nsend c => ok\nrecv c => " + s.about("8.8.8.8:53") + "/first\nclose c => ok")
}
