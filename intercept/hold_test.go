// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"sotto/intercept/netns"
	"sotto/internal/capture"
	"sotto/internal/lab"
	"sotto/internal/testnet"
)

// below makes a cgroup below the sealed one.
func (s *testSeal) below(t *testing.T, name string) *lab.Cgroup {
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

// virtual captures behind the host's interface until the test ends, and fails it if a packet
// from or for a virtual address crossed, or one to or from port 53 while is reports true.
func (s *testSeal) virtual(t *testing.T) {
	t.Helper()
	c, err := capture.Start(s.lan.NS, lab.LANIf)
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
			if inPrefixes(p.Src.Addr(), prefixes...) || inPrefixes(p.Dst.Addr(), prefixes...) {
				t.Errorf("a virtual address left the machine: %v", p)
			}
		}
	})
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
	s := openSeal(t, nil)
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
	s := openSeal(t, nil)
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
		if err := s.kernel.collect(0); err != nil {
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
		testnet.Skip(t, "needs MPTCP: "+got)
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
func TestShares(t *testing.T) {
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

// A clean stop ends what is connected to virtual addresses, in every network namespace; what
// it was connected to is not given to another workload by the next start.
func TestStopEndsSockets(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = testnet.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := testnet.Containers(t, s.lab, s.host, "container")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.virtual(t)
	x := []*client{startClient(t, s.host, s.below(t, "x")), startClient(t, inside[0], s.group)}
	kinds := []string{"udp4 8.8.8.8:53", "udp6 [2001:db8::53]:53", "udp6 [::ffff:8.8.8.8]:53", "tcp4 8.8.8.8:53", "tcp6 [2001:db8::53]:53", "mptcp4 8.8.8.8:53"}
	for _, c := range x {
		for i, kind := range kinds {
			socket, to, _ := strings.Cut(kind, " ")
			if got := c.do("socket s%d %s", i, socket); got != "ok" {
				continue // no MPTCP
			}
			c.want(fmt.Sprintf("connect s%d %s => ok\nsend s%d => ok", i, to, i))
		}
		c.want("socket plain udp4 => ok\nconnect plain 8.8.8.8:54 => ok")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
	for _, c := range x {
		for i := range kinds {
			c.do("recv s%d", i) // the answer to what was asked before, or the error
			if got := c.do("send s%d", i); got == "ok" {
				t.Errorf("%s: still connected, to %s", kinds[i], c.do("peer s%d", i))
			}
		}
		c.want("peer plain => 8.8.8.8:54")
	}
	s.Instance = openAt(t, s.host, s.cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	y := s.below(t, "y")
	startClient(t, s.host, y).want("socket a udp4 => ok\nconnect a 1.1.1.1:53 => ok\nsend a => ok\nrecv a => 1.1.1.1:53 by /" +
		filepath.Base(s.group.Path) + "/y from 1.1.1.1:53")
}

// Where a socket cannot be ended (it is in a network namespace that no process is in and that
// has no name), a stop leaves what keeps its packets in. The next start takes over from there,
// and the socket is that workload's still.
func TestStopKeepsWhatIsHeld(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = testnet.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := testnet.Containers(t, s.lab, s.host, "container")
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
	s.virtual(t)
	x := startClient(t, s.host, s.below(t, "x"))
	x.want(fmt.Sprintf("socketin a udp4 /proc/%d/fd/%d => ok", os.Getpid(), inside[0].NS.Fd()))
	x.want("connect a 9.9.9.9:53 => ok\nsend a => ok\nrecv a => " + s.about("9.9.9.9:53") + "/x from 9.9.9.9:53")
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if there, err := hooked(pinDir(cfg.BPFFS, cfg.Name)); !there || err != nil {
		t.Fatalf("nothing stays: %v", err)
	}
	x.want("send a => EPERM\nsocket b udp4 => ok\nconnect b 9.9.9.9:53 => ok\npeer b => 9.9.9.9:53\nsend b => ok\nrecv b => ECONNREFUSED\nclose b => ok")
	start()
	if !s.kernel.adopted {
		t.Fatal("the maps were not adopted")
	}
	startClient(t, s.host, s.below(t, "y")).want("socket a udp4 => ok\nconnect a 1.2.3.1:53 => ok")
	x.want("send a => ok\nrecv a => " + s.about("9.9.9.9:53") + "/x from 9.9.9.9:53\nclose a => ok")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
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

// The NAT of a host that translates the queries of its containers cannot send them elsewhere
// in the clear: not even where its rule comes before everything.
func TestTranslated(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = testnet.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := testnet.Containers(t, s.lab, s.host, "container", "resolver")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	c := startClient(t, inside[0], s.group)
	for i, to := range [][2]string{{lab.LANAddr4, lab.LANAddr6}, {"10.88.0.3", "fd88::3"}} { // off this host, and on it
		rules := fmt.Sprintf(`table ip force%[1]d { chain pre { type nat hook prerouting priority -150; udp dport 53 dnat to %[2]s; tcp dport 53 dnat to %[2]s; }; }
			table ip6 force%[1]d { chain pre { type nat hook prerouting priority -150; udp dport 53 dnat to %[3]s; tcp dport 53 dnat to %[3]s; }; }`, i, to[0], to[1])
		if out, err := s.host.Command(t.Context(), nil, testnet.NeedTool(t, "nft"), rules).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		n := s.Counters()["stopped_translated"]
		c.want(`
			socket a udp4 => ok
			sendto a 8.8.8.8:53 => ok
			socket b udp6 => ok
			sendto b [2001:db8::53]:53 => ok
			socket c tcp4 => ok
			connect c 8.8.8.8:53 => EINPROGRESS`)
		if got := s.Counters()["stopped_translated"] - n; got < 3 {
			t.Errorf("to %v: stopped %d", to, got)
		}
		if out, err := s.host.Command(t.Context(), nil, "nft", fmt.Sprintf("delete table ip force%[1]d; delete table ip6 force%[1]d", i)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
