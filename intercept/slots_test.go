// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/intercept/feature"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// usable is the number of slots of the test's prefix: 1,024 addresses without the reserved
// ones.
const usable = 1024 - network.FirstSlot - 1

// Go's resolver connects to every address that it resolved, and sends nothing. Even if it
// does that more often than there are slots, all slots are free afterwards.
func TestChurnLeavesSlots(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	var each int
	if _, err := fmt.Sscanf(c.Do("churn 200000 200000"), "ok %d", &each); err != nil {
		t.Fatal(err)
	}
	t.Logf("socket, connect and close of another address each time: %d ns", each)
	if used, refs := s.slotsUsed(t); used != 0 || refs != 0 {
		t.Errorf("%d slots in use with %d references after all sockets were closed", used, refs)
	}
	if n := s.Counters()["slot_freed"]; n != 200000 {
		t.Errorf("%d slots were freed", n)
	}
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
}

// If one workload uses its quota, another one still gets slots. The first gets slots again
// after it has released some.
func TestQuota(t *testing.T) {
	s := openSeal(t, nil)
	second, err := s.lab.Below(s.group, "second")
	if err != nil {
		t.Fatal(err)
	}
	greedy, modest := s.client(t), clienttest.Start(t, s.host, second)
	errno := "ENOBUFS"
	if !feature.HasSetRetval() {
		errno = "EPERM"
	}
	if got, want := greedy.Do("hold g %d", usable), fmt.Sprintf("%d %s", 512, errno); got != want {
		t.Errorf("held %s, want %s", got, want)
	}
	greedy.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => " + errno)
	modest.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\npeer a => 8.8.8.8:53")
	if n := s.Counters()["over_quota"]; n != 2 {
		t.Errorf("refused for quota %d times", n)
	}
	// A workload over its quota can still use the slots that it holds.
	greedy.Want("socket b udp4 => ok\nconnect b 100.64.0.1:53 => ok")
	greedy.Stop()
	labtest.WaitFor(t, "the greedy one's slots are free", func() bool {
		used, _ := s.slotsUsed(t)
		return used == 1
	})
	s.client(t).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
}

func TestNoSlotLeft(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Quota = usable + 1 })
	c := s.client(t)
	errno := "ENOBUFS"
	if !feature.HasSetRetval() {
		errno = "EPERM"
	}
	if got, want := c.Do("hold h %d", usable+1), fmt.Sprintf("%d %s", usable, errno); got != want {
		t.Errorf("held %s, want %s", got, want)
	}
	if n := s.Counters()["no_slot"]; n != 1 {
		t.Errorf("refused %d times because no slot was free", n)
	}
	c.Want("socket x udp4 => ok\nsendto x 8.8.8.8:53 => " + errno +
		"\nclose h0 => ok\nsendto x 8.8.8.8:53 => ok\nrecv x => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
}

// A socket whose connect was refused stays connected to its peer.
func TestRefusedConnectKeepsPeer(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Quota = 1 })
	errno := "ENOBUFS"
	if !feature.HasSetRetval() {
		errno = "EPERM"
	}
	s.client(t).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nconnect a 9.9.9.9:53 => " + errno +
		"\npeer a => 8.8.8.8:53\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	if used, refs := s.slotsUsed(t); used != 1 || refs != 1 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
}

// A slot is freed when the last socket that uses it is closed or connected elsewhere.
func TestReferences(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	for _, step := range []struct {
		do         string
		used, refs int
	}{
		{"socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok", 1, 1},
		{"connect a 8.8.8.8:53 => ok", 1, 1},
		{"socket b udp6 => ok\nconnect b 8.8.8.8:53 => ok", 1, 2},
		{"connect a 8.8.8.8:53 => ok", 1, 2},
		// The hook does not know whether the connect will succeed, so the slot of the previous
		// peer is held until the next connect.
		{"connect a 9.9.9.9:53 => ok", 2, 3},
		{"connect a 9.9.9.9:5353 => ok", 2, 2},
		{"connect a 127.0.0.1:53 => ok", 1, 1},
		{"connect a 9.9.9.9:53 => ok\nclose a => ok", 1, 1},
		{"socket t tcp4 => ok\nconnect t 1.1.1.1:53 => ok", 2, 2},
		{"close t => ok\nclose b => ok", 0, 0},
	} {
		c.Want(step.do)
		if used, refs := s.slotsUsed(t); used != step.used || refs != step.refs {
			t.Errorf("after %q: %d slots in use with %d references, want %d with %d", step.do, used, refs, step.used, step.refs)
		}
	}
}

// A slot that an unconnected socket has used is kept for the reply, and collected when it is
// idle. A connected socket keeps its slot until it is closed.
func TestCollect(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 300 * time.Millisecond })
	c := s.client(t)
	c.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nsendto a 9.9.9.9:53 => ok\nsocket b udp4 => ok\nconnect b 9.9.9.9:53 => ok")
	if used, refs := s.slotsUsed(t); used != 2 || refs != 1 {
		t.Fatalf("%d slots in use with %d references", used, refs)
	}
	labtest.WaitFor(t, "one slot is collected", func() bool {
		if err := s.kernel.collect(s.cfg.Linger); err != nil {
			t.Fatal(err)
		}
		used, _ := s.slotsUsed(t)
		return used == 1
	})
	c.Want("send b => ok\nrecv b => " + s.about("9.9.9.9:53") + " from 9.9.9.9:53\nclose b => ok")
	// A query may still be unread when its socket is closed.
	if used, refs := s.slotsUsed(t); used != 1 || refs != 0 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
	s.waitFree(t)
	if n := s.Counters()["slot_collected"]; n != 2 {
		t.Errorf("%d slots were collected", n)
	}
}

// waitFree waits until no slot is in use.
func (s *testSeal) waitFree(t *testing.T) {
	t.Helper()
	labtest.WaitFor(t, "no slot is in use", func() bool {
		if err := s.kernel.collect(s.cfg.Linger); err != nil {
			t.Fatal(err)
		}
		used, _ := s.slotsUsed(t)
		return used == 0
	})
}

// Removed cgroups are forgotten when they hold no slot, and not before: a socket that outlives
// its cgroup still belongs to that workload.
func TestForgetRemoved(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 300 * time.Millisecond })
	s.run(t)
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	group, err := cgroup.Create(s.group.Path, "short-lived")
	if err != nil {
		t.Fatal(err)
	}
	excluded, err := cgroup.Create(s.group.Path, "excluded")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.exclusion().add(s.paths.Root(), cgroup.Group{Path: excluded.Path(), ID: excluded.ID()}); err != nil {
		t.Fatal(err)
	}
	id, name := group.ID(), group.Path()[len(root):]
	c := s.client(t)
	c.Want("moveself " + group.Path() + " => ok\nsocket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nmoveself " + s.group.Path + " => ok")
	if !s.kernel.holdsSlots(id) {
		t.Error("the cgroup holds no slot")
	}
	labtest.WaitFor(t, "a lookup of its path without a query", func() bool {
		path, _ := s.paths.Known(id)
		return path == name
	})
	if err := errors.Join(group.Close(), excluded.Close()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.kernel.collect(s.cfg.Linger), s.forgetRemoved()); err != nil {
		t.Fatal(err)
	}
	c.Want("send a => ok\nrecv a => 8.8.8.8:53 by " + name + " from 8.8.8.8:53\nclose a => ok")
	labtest.WaitFor(t, "the cgroup to be forgotten", func() bool {
		if err := s.forgetRemoved(); err != nil {
			t.Fatal(err)
		}
		var share sottoShare
		all, err := s.exclusion().all()
		return s.kernel.Shares.Lookup(id, &share) != nil && err == nil && len(all) == 0
	})
	if path, ok := s.paths.Known(id); ok {
		t.Errorf("its path was not forgotten: %s", path)
	}
}

// Processes that query the same nameservers at the same time share slots, and all slots are
// freed.
func TestConcurrentClients(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 300 * time.Millisecond })
	other, err := s.lab.Below(s.group, "other")
	if err != nil {
		t.Fatal(err)
	}
	const clients, distinct, held = 8, 3, 100
	groups := []*netlab.Cgroup{s.group, other}
	stop := s.readAndCollect(t, map[uint64]netip.Addr{groups[0].ID: clienttest.Nth(0), groups[1].ID: clienttest.Nth(1 << 16)}, distinct)
	all := make([]*clienttest.Client, clients)
	for i := range all {
		all[i] = clienttest.Start(t, s.host, groups[i%2])
	}
	together(t, all, func(i int) (do, want string) {
		return fmt.Sprintf("churn 20000 %d %d", distinct, i%2<<16), "ok"
	})
	stop()
	// The remaining sockets hold one slot per nameserver and cgroup, also where several
	// allocated one at the same time.
	for range 50 {
		together(t, all, func(int) (do, want string) { return fmt.Sprintf("hold h %d", held), fmt.Sprintf("%d ok", held) })
		if used, refs := s.slotsUsed(t); used != len(groups)*held || refs != clients*held {
			t.Fatalf("%d slots in use with %d references, want %d with %d", used, refs, len(groups)*held, clients*held)
		}
		for i, c := range all {
			about := s.about(netip.AddrPortFrom(clienttest.Nth(i), 53).String())
			if i%2 == 1 {
				about += "/other"
			}
			c.Want(fmt.Sprintf("send h%d => ok\nrecv h%[1]d => %s from %s:53", i, about, clienttest.Nth(i)))
		}
		together(t, all, func(int) (do, want string) { return fmt.Sprintf("drop h %d", held), "ok" })
	}
	// The kernel closes a socket when the last reference to its file is released, which may be
	// later than the program's close.
	labtest.Eventually(t, func() error {
		if err := s.kernel.collect(s.cfg.Linger); err != nil {
			return err
		}
		if used, refs := s.slotsUsed(t); used != 0 || refs != 0 {
			return fmt.Errorf("%d slots in use with %d references; counted %v", used, refs, s.Counters())
		}
		return nil
	})
	if got := queued(t, s); got != usable {
		t.Errorf("%d slots are in the queue, want %d", got, usable)
	}
	n := s.Counters()
	t.Logf("races: %d, slots made: %d for %d connects", n["slot_race"], n["slot_new"], n["connect"])
	// The kernel closes about one socket in ten million without running its release hook. A bug
	// in the programs would lose references far more often.
	if n["slot_recounted"] > 2 {
		t.Errorf("the references of %d slots were wrong", n["slot_recounted"])
	}
	var key sottoKey
	var idx uint32
	if it := s.kernel.Forward.Iterate(); it.Next(&key, &idx) {
		t.Errorf("a hint is left: %v to slot %d", key, idx)
	}
	var group uint64
	var share sottoShare
	for it := s.kernel.Shares.Iterate(); it.Next(&group, &share); {
		if share.Held != 0 {
			t.Errorf("cgroup %d is counted with %d slots", group, share.Held)
		}
	}
}

// together runs a command in all clients at the same time. what returns the command of client
// i and the prefix of its result.
func together(t *testing.T, all []*clienttest.Client, what func(i int) (do, want string)) {
	t.Helper()
	for i, c := range all {
		do, _ := what(i)
		c.Begin("%s", do)
	}
	for i, c := range all {
		do, want := what(i)
		if got := c.Result(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", do, got, want)
		}
	}
}

// readAndCollect collects slots and reads their original destinations, until it is stopped.
// Each cgroup queries some nameservers, starting with its entry in first.
func (s *testSeal) readAndCollect(t *testing.T, first map[uint64]netip.Addr, some int) (stop func()) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	wg.Go(func() {
		for n := uint32(0); ; n++ {
			select {
			case <-end:
				return
			default:
			}
			if n%1000 == 0 {
				if err := s.kernel.collect(s.cfg.Linger); err != nil {
					t.Error(err)
					return
				}
			}
			o, ok := s.Origin(network.NthAddr(s.cfg.Prefix4, network.FirstSlot+n%usable))
			if !ok {
				continue
			}
			least, known := first[o.CgroupID]
			if !known || o.Addr.Port() != 53 || o.Addr.Addr().Less(least) || !o.Addr.Addr().Less(plus(least, some)) {
				t.Errorf("a slot stands for %v", o)
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

// plus adds n to the last bytes of an address. The sum must not overflow.
func plus(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	b[3] += byte(n)
	return netip.AddrFrom4(b)
}

// queued empties the queue of free slots and returns their number. A duplicate is an error.
func queued(t *testing.T, s *testSeal) int {
	t.Helper()
	seen := make(map[uint32]bool)
	for {
		var idx uint32
		if err := s.kernel.FreeSlots.LookupAndDelete(nil, &idx); err != nil {
			return len(seen)
		}
		if seen[idx] || idx < network.FirstSlot || idx >= 1023 {
			t.Errorf("slot %d is in the queue twice, or reserved", idx)
		}
		seen[idx] = true
	}
}

// Run collects periodically, and returns no error.
func TestRunCollects(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.Linger = 100 * time.Millisecond })
	s.run(t)
	s.client(t).Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok")
	labtest.WaitFor(t, "the slot is collected", func() bool { return s.Counters()["slot_collected"] == 1 })
}

// workloadOf returns the path of a workload, also if it is incomplete.
func workloadOf(i *Instance, cgroup uint64) string {
	path, _ := i.Workload(cgroup)
	return path
}
