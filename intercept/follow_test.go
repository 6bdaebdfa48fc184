// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/intercept/pins"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// remove removes cgroups whose processes have exited, as systemd does when a unit stops.
func remove(t *testing.T, groups ...*netlab.Cgroup) {
	t.Helper()
	for _, g := range groups {
		if err := cgroup.Remove(g.Path); err != nil {
			t.Fatal(err)
		}
	}
}

// create creates a cgroup below another one.
func (s *testSeal) create(t *testing.T, parent *netlab.Cgroup, name string) *netlab.Cgroup {
	t.Helper()
	g, err := s.lab.Below(parent, name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A cgroup that is removed and created again is sealed or excluded again, also if the one above it
// is another one, and another process adopts its hooks. An excluded cgroup may be created later.
func TestCgroupCreatedAgain(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	top := s.unsealed(t, "top")
	slice := s.create(t, top, "app.slice")
	service := s.create(t, slice, "app.service")
	s.group = service
	cfg := sealTestConfig(t, service)
	cfg.Exclude = []string{filepath.Join(service.Path, "open", "deep")}
	s.Instance = openAt(t, s.host, cfg)
	stopListening := listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	defer func() { stop() }()
	sealed := func(g *netlab.Cgroup) func() bool {
		return func() bool {
			_, err := os.Stat(pins.Hook(s.kernel.dir, "guard", g.ID))
			return err == nil && s.sealedGroups()[0].ID == g.ID
		}
	}
	ask := func(in *netlab.Cgroup) {
		t.Helper()
		c := clienttest.Start(t, s.host, in)
		c.Want(strings.ReplaceAll(`
			socket a udp4 => ok
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53
			frame eth0 8.8.8.8:53 => ENOBUFS`, "W", " by "+strings.TrimPrefix(in.Path, s.paths.Root())))
		c.Stop()
	}
	ask(service)
	for _, alone := range []bool{true, false} {
		remove(t, service)
		if !alone {
			remove(t, slice)
		}
		eventually(t, "the status names the removed cgroup", func() bool { return slices.Contains(s.Info().Missing, service.Path) })
		if !alone {
			slice = s.create(t, top, "app.slice")
		}
		service = s.create(t, slice, "app.service")
		eventually(t, "the new cgroup is sealed", sealed(service))
		ask(service)
		if m := s.Info().Missing; len(m) > 0 {
			t.Errorf("missing: %v", m)
		}
	}

	// Its share is that of the first one, half of all but for slots that were used before, and not
	// half of what the cgroups above it might have.
	c := clienttest.Start(t, s.host, service)
	held := 0
	if got := c.Do("hold g %d", usable); got != "" {
		_, _ = fmt.Sscan(got, &held)
	}
	if held < 500 || held > 512 {
		t.Errorf("held %d slots, want about 512", held)
	}
	c.Stop()

	open := s.create(t, service, "open")
	for range 2 {
		deep := s.create(t, open, "deep")
		eventually(t, "the new cgroup is excluded", func() bool {
			all, err := s.exclusion().all()
			_, is := all[deep.ID]
			return err == nil && is
		})
		if n := s.crossed(t, func() {
			c := clienttest.Start(t, s.host, deep)
			c.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok")
			c.Stop()
		}); n != 1 {
			t.Errorf("%d packets of an excluded cgroup left", n)
		}
		remove(t, deep)
	}

	// The next process finds the hooks of the new cgroup.
	stop()
	stop = func() {}
	stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	s.Instance = openAt(t, s.host, cfg)
	if !s.kernel.adopted {
		t.Error("the maps were not adopted")
	}
	if len(s.earlier) > 0 {
		t.Errorf("the record named other cgroups: %v", s.earlier)
	}
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	ask(service)
}

// start opens an instance, seals its cgroups and runs it until the test ends.
func (s *testSeal) start(t *testing.T, cfg Config) {
	t.Helper()
	s.Instance = openAt(t, s.host, cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// hasHooks reports whether the hooks of a cgroup are pinned.
func (s *testSeal) hasHooks(g *netlab.Cgroup) bool {
	_, err := os.Stat(pins.Hook(s.kernel.dir, "guard", g.ID))
	return err == nil
}

// A cgroup may be created again between Open and Attach. It has one set of hooks: with two, the second
// would see the addresses that the first has written.
func TestCgroupCreatedAgainBeforeAttach(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	top := s.unsealed(t, "top")
	first := s.create(t, top, "app.service")
	s.Instance = openAt(t, s.host, sealTestConfig(t, first))
	listen(t, s.Instance)
	remove(t, first)
	s.group = s.create(t, top, "app.service")
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	if err := s.syncGroups(); err != nil {
		t.Fatal(err)
	}
	if all, err := pins.Hooks(s.kernel.dir); err != nil || len(all) != len(s.kernel.hooks(true)) || !s.hasHooks(s.group) {
		t.Errorf("hooks %v, %v", all, err)
	}
	c := s.client(t)
	c.Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => 8.8.8.8:53 by " + strings.TrimPrefix(s.group.Path, s.paths.Root()) + " from 8.8.8.8:53\nframe eth0 8.8.8.8:53 => ENOBUFS")
	// Nothing is attached to a cgroup under the name of another.
	k := s.kernel
	err := attachHook(k.hooks(false)[0], cgroup.Group{Path: s.group.Path, ID: first.ID}, pins.Hook(k.dir, "sock_release", first.ID))
	if err == nil || !strings.Contains(err.Error(), "was created again") {
		t.Errorf("attach to another cgroup: %v", err)
	}
}

// A socket of a removed cgroup, which a program has taken elsewhere, stays sealed when the cgroup is
// created again. When it is closed, the hooks of that cgroup are removed.
func TestRemovedCgroupStaysSealed(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	top := s.unsealed(t, "top")
	first, outside := s.create(t, top, "app.service"), s.create(t, top, "outside")
	s.group = first
	cfg := sealTestConfig(t, first)
	cfg.Linger = 100 * time.Millisecond // between two checks of what removed cgroups have left
	s.start(t, cfg)
	c := clienttest.Start(t, s.host, first)
	const ask = "sendto a 8.8.8.8:53 => ok\nrecv a => *"
	c.Want("socket a udp4 => ok\n" + ask + "\nmoveself " + outside.Path + " => ok")
	remove(t, first)
	if n := s.crossed(t, func() { c.Want(ask) }); n != 0 {
		t.Errorf("%d packets of a socket left after the removal of its cgroup", n)
	}
	second := s.create(t, top, "app.service")
	eventually(t, "the new cgroup is sealed", func() bool { return s.hasHooks(second) && s.sealedGroups()[0].ID == second.ID })
	if n := s.crossed(t, func() { c.Want(ask) }); n != 0 {
		t.Errorf("%d packets of a socket left after its cgroup was created again; its hooks are pinned: %t", n, s.hasHooks(first))
	}
	c.Want("close a => ok")
	c.Stop()
	remove(t, second)
	third := s.create(t, top, "app.service")
	eventually(t, "the third cgroup is sealed, and the hooks of the others removed", func() bool {
		return s.hasHooks(third) && !s.hasHooks(first) && !s.hasHooks(second)
	})
}

// The cgroup above several sealed ones, whose shares are counted from there, may be created again as
// well.
func TestSharesOfCgroupsCreatedAgain(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	top := s.unsealed(t, "top")
	var slice, one, other *netlab.Cgroup
	make := func() {
		slice = s.create(t, top, "app.slice")
		one, other = s.create(t, slice, "one.service"), s.create(t, slice, "other.service")
	}
	make()
	s.group = one
	cfg := sealTestConfig(t, one)
	cfg.Cgroups = append(cfg.Cgroups, other.Path)
	s.start(t, cfg)
	remove(t, one, other, slice)
	make()
	eventually(t, "the new cgroups are sealed", func() bool {
		all := s.sealedGroups()
		return s.hasHooks(one) && s.hasHooks(other) && all[0].ID == one.ID && all[1].ID == other.ID
	})
	c := clienttest.Start(t, s.host, one)
	held := 0
	_, _ = fmt.Sscan(c.Do("hold g %d", usable), &held)
	if held < 500 || held > 512 {
		t.Errorf("held %d slots, want half of all: about 512", held)
	}
	c.Stop()
}
