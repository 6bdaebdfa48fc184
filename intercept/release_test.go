// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"os"
	"testing"

	"sotto/intercept/clienttest"
	"sotto/intercept/pins"
	"sotto/internal/netlab/labtest"
)

// After a successor has attached its own programs, also to another cgroup, and exited, Reclaim
// restores the previous state.
func TestReclaim(t *testing.T) {
	s := openSeal(t, nil)
	other, err := s.lab.Cgroup("other")
	if err != nil {
		t.Fatal(err)
	}
	c, apart := s.client(t), clienttest.Start(t, s.host, other)
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	ask := "send a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\npeer a => 8.8.8.8:53"
	c.Want(ask)
	used, refs := s.slotsUsed(t)

	if err := s.Reclaim(); err == nil {
		t.Error("reclaimed without a release")
	}
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(); err == nil {
		t.Error("released twice")
	}
	c.Want(ask)
	cfg := s.cfg
	cfg.Ports, cfg.Cgroups = []uint16{53, 5300}, []string{s.group.Path, other.Path}
	next := openAt(t, s.host, cfg)
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	// Only the successor's programs redirect port 5300.
	five := "socket b udp4 => ok\nconnect b 8.8.8.8:5300 => ok\nsend b => ok\nrecv b => "
	c.Want(ask + "\n" + five + s.about("8.8.8.8:5300") + " from 8.8.8.8:5300\nclose b => ok")
	// While the successor runs, Reclaim fails and changes nothing.
	if err := s.Reclaim(); !errors.Is(err, ErrOwned) {
		t.Errorf("reclaim from a running process: %v", err)
	}
	c.Want(ask)

	if err := next.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	c.Want(ask + "\n" + five + "ECONNREFUSED\nclose b => ok")
	apart.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\npeer a => 8.8.8.8:53\nsend a => ok\nrecv a => ECONNREFUSED\nclose a => ok")
	const raw = "socket r raw4 => ok\nrawto r 8.8.8.8:53 => "
	c.Want(raw + "EPERM")
	if n := s.crossed(t, func() { apart.Want(raw + "ok") }); n != 1 {
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

// A sealed cgroup may be created again during a takeover. When the successor fails, Reclaim seals it:
// nothing follows the cgroups until Run is called again.
func TestReclaimFollows(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	top := s.unsealed(t, "top")
	service := s.create(t, top, "app.service")
	s.group = service
	cfg := sealTestConfig(t, service)
	s.Instance = openAt(t, s.host, cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	for _, sealed := range []bool{true, false} { // by the successor
		if err := s.Release(); err != nil {
			t.Fatal(err)
		}
		remove(t, service)
		if sealed {
			service = s.create(t, top, "app.service")
			next := openAt(t, s.host, cfg)
			if err := next.Attach(); err != nil {
				t.Fatal(err)
			}
			if err := next.Abandon(); err != nil {
				t.Fatal(err)
			}
		} else {
			service = s.create(t, top, "app.service")
		}
		var c *clienttest.Client
		if !sealed { // its socket is connected in the clear before Reclaim
			c = clienttest.Start(t, s.host, service)
			c.Want("socket b udp4 => ok\nconnect b 8.8.8.8:53 => ok")
		}
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
		if sealed {
			c = clienttest.Start(t, s.host, service)
		}
		if n := s.crossed(t, func() {
			c.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nframe eth0 8.8.8.8:53 => ENOBUFS")
			if !sealed {
				c.Want("send b => EDESTADDRREQ")
			}
		}); n != 0 {
			t.Errorf("sealed by the successor: %t: %d packets left", sealed, n)
		}
		c.Stop()
	}
}

// If Attach fails it does not detach the hooks and the guard of an earlier process, which may
// still be running.
func TestAttachFails(t *testing.T) {
	s := openSeal(t, nil)
	other, err := s.lab.Cgroup("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	cfg := s.cfg
	cfg.Cgroups = []string{s.group.Path, other.Path}
	next := openAt(t, s.host, cfg)
	if err := os.Remove(other.Path); err != nil {
		t.Fatal(err)
	}
	if err := next.Attach(); err == nil {
		t.Fatal("attached to a removed cgroup")
	}
	s.wire(t)
	c := s.client(t)
	still := "frame eth0 8.8.8.8:53 => ENOBUFS\nsocket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => " +
		s.about("8.8.8.8:53") + " from 8.8.8.8:53\nclose a => ok"
	c.Want(still)
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	c.Want(still)
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	c.Want(still)
}

// After Detach, the first step of a clean stop, queries are sent to their original destination.
func TestDetach(t *testing.T) {
	s := openSeal(t, nil)
	c := s.client(t)
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	for range 2 {
		if err := s.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	c.Want("socket b udp4 => ok\nconnect b 8.8.8.8:53 => ok\nsend b => ok\nrecv b => ECONNREFUSED") // no server on the LAN
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
}

// After Abandon the seal stays closed, until another process adopts or clears it.
func TestAbandon(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close after abandon: %v", err)
	}
	if has, err := pins.HasHooks(pins.Dir(s.cfg.BPFFS, s.cfg.Name)); !has || err != nil {
		t.Errorf("the hooks were removed: %v", err)
	}
	next := openAt(t, s.host, s.cfg)
	if !next.kernel.adopted {
		t.Error("the maps were not adopted")
	}
	if err := next.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := downAt(s.host, s.cfg); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
}
