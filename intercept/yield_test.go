// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"os"
	"testing"
)

// TestReclaim: a process that asked to take over put its own programs in place, and for
// more than is sealed, and is gone: everything is as it was before.
func TestReclaim(t *testing.T) {
	s := openSeal(t, nil)
	other, err := s.lab.Cgroup("other")
	if err != nil {
		t.Fatal(err)
	}
	c, apart := s.client(t), startClient(t, s.host, other)
	c.want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	ask := "send a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\npeer a => 8.8.8.8:53"
	c.want(ask)
	used, refs := s.slotsUsed(t)

	if err := s.Reclaim(); err == nil {
		t.Error("what was not yielded was reclaimed")
	}
	if err := s.Yield(); err != nil {
		t.Fatal(err)
	}
	if err := s.Yield(); err == nil {
		t.Error("it was yielded twice")
	}
	c.want(ask)
	cfg := s.cfg
	cfg.Ports, cfg.Cgroups = []uint16{53, 5300}, []string{s.group.Path, other.Path}
	next := openAt(t, s.host, cfg)
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	// Port 5300 tells whose programs are in place.
	five := "socket b udp4 => ok\nconnect b 8.8.8.8:5300 => ok\nsend b => ok\nrecv b => "
	c.want(ask + "\n" + five + s.about("8.8.8.8:5300") + " from 8.8.8.8:5300\nclose b => ok")
	// While that one lives, nothing can be taken back, and nothing breaks.
	if err := s.Reclaim(); !errors.Is(err, ErrOwned) {
		t.Errorf("from a process that lives: %v", err)
	}
	c.want(ask)

	if err := next.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	c.want(ask + "\n" + five + "ECONNREFUSED\nclose b => ok")
	apart.want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\npeer a => 8.8.8.8:53\nsend a => ok\nrecv a => ECONNREFUSED\nclose a => ok")
	const raw = "socket r raw4 => ok\nrawto r 8.8.8.8:53 => "
	c.want(raw + "EPERM")
	if n := s.crossed(t, func() { apart.want(raw + "ok") }); n != 1 {
		t.Errorf("%d packets of a raw socket left of a cgroup that is not sealed, want 1", n)
	}
	if isUsed, areRefs := s.slotsUsed(t); isUsed < used || areRefs != refs {
		t.Errorf("%d slots in use with %d references; before %d with %d", isUsed, areRefs, used, refs)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
}

// TestAttachFails: a start that cannot attach takes nothing off that an earlier process
// attached, which may be one that goes on.
func TestAttachFails(t *testing.T) {
	s := openSeal(t, nil)
	other, err := s.lab.Cgroup("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Yield(); err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Cgroups = []string{s.group.Path, other.Path}
	next := openAt(t, s.host, cfg)
	if err := os.Remove(other.Path); err != nil {
		t.Fatal(err)
	}
	if err := next.Attach(); err == nil {
		t.Fatal("attached to a cgroup that is gone")
	}
	s.wire(t)
	c := s.client(t)
	still := "frame eth0 8.8.8.8:53 => ENOBUFS\nsocket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => " +
		s.about("8.8.8.8:53") + " from 8.8.8.8:53\nclose a => ok"
	c.want(still)
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	c.want(still)
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	c.want(still)
}
