// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"sotto/intercept/cgroup"
	"sotto/intercept/clienttest"
	"sotto/intercept/nat"
	"sotto/intercept/network"
	"sotto/intercept/pins"
	"sotto/intercept/registry"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// killed seals a cgroup in another process and kills that process.
func killed(t *testing.T, change func(*Config)) (s *testSeal, cfg Config) {
	t.Helper()
	s = &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	var err error
	if s.group, err = s.lab.Cgroup("work"); err != nil {
		t.Fatal(err)
	}
	cfg = sealTestConfig(t, s.group)
	if change != nil {
		change(&cfg)
	}
	t.Cleanup(func() {
		if err := downAt(s.host, cfg); err != nil {
			t.Errorf("remove the leftovers: %v", err)
		}
	})
	kill(startSealer(t, s.host, cfg))
	return s, cfg
}

// downAt is Down for the run directory of cfg, on a host of the lab. It only clears instances
// with a record, because other names may be those of other tests.
func downAt(at *netlab.Host, cfg Config) error {
	return at.Do(func() error { return downRecorded(cfg) })
}

func downRecorded(cfg Config) error {
	reg, err := registry.Open(cfg.RunDir)
	if err != nil {
		return err
	}
	defer reg.Release()
	all, err := reg.List()
	for _, f := range all {
		if f.Alive {
			err = errors.Join(err, registry.RunningError{Found: f})
		} else {
			err = errors.Join(err, clearInstance(reg, f.Record, cfg.BPFFS))
		}
	}
	return err
}

// nothingLeft reports an error if the instance has left anything.
func nothingLeft(t *testing.T, at *netlab.Host, cfg Config) {
	t.Helper()
	if _, err := os.Stat(pins.Dir(cfg.BPFFS, cfg.Name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.RunDir, cfg.Name+registry.Suffix)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is left: %v", err)
	}
	if ns, err := netns.Open(cfg.Name); err == nil {
		t.Error("the namespace is left")
		_ = ns.Close()
	}
	err := at.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if strings.HasPrefix(l.Name, linkBase(cfg.Name)) {
				t.Errorf("the link %s is left", l.Name)
			}
		}
		tables, errTables := nat.Instances()
		if slices.Contains(tables, cfg.Name) {
			t.Error("the nat table is left")
		}
		return errors.Join(err, errTables)
	})
	if err != nil {
		t.Error(err)
	}
	h, err := at.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Error(err)
	}
	for _, r := range routes {
		if dst := r.Dst; dst != nil && (dst.String() == cfg.Prefix4.String() || dst.String() == cfg.Prefix6.String()) {
			t.Errorf("a route is left: %v", r)
		}
	}
}

// After a kill queries fail. The next start adopts hooks, slots and sockets.
func TestAdoptAfterKill(t *testing.T) {
	s, cfg := killed(t, nil)
	c := s.client(t)
	c.Want(`socket a udp4 => ok
		connect a 8.8.8.8:53 => ok
		send a => ok
		recv a => ECONNREFUSED
		socket t tcp4 => ok
		connect t 8.8.8.8:53 => ECONNREFUSED`)
	// A start that fails before it attaches the hooks does not open the seal.
	first := openAt(t, s.host, cfg)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c.Want("send a => ok\nrecv a => ECONNREFUSED")

	s.Instance = openAt(t, s.host, cfg)
	if !s.kernel.adopted {
		t.Error("the maps were not adopted")
	}
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	// The socket that was connected before has kept its slot.
	c.Want("send a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\npeer a => 8.8.8.8:53")
	c.Want("close t => ok\nclose a => ok\nsocket b udp4 => ok\nconnect b 9.9.9.9:53 => ok\nsend b => ok\nrecv b => " +
		s.about("9.9.9.9:53") + " from 9.9.9.9:53")
	if used, refs := s.slotsUsed(t); used == 0 || refs != 1 {
		t.Errorf("%d slots in use with %d references", used, refs)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
	s.client(t).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\npeer a => 8.8.8.8:53\nsend a => ok\nrecv a => ECONNREFUSED")
}

// With other prefixes, or if a cgroup is no longer sealed, new maps are made.
func TestReplaceAfterKill(t *testing.T) {
	s, cfg := killed(t, nil)
	other, err := s.lab.Cgroup("other")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Cgroups = []string{other.Path}
	s.Instance = openAt(t, s.host, cfg)
	if s.kernel.adopted {
		t.Error("maps of another cgroup were adopted")
	}
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	c := clienttest.Start(t, s.host, other)
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => 8.8.8.8:53 by /" +
		filepath.Base(other.Path) + " from 8.8.8.8:53")
	before := s.Counters()["connect"]
	s.client(t).Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok")
	if got := s.Counters()["connect"]; got != before {
		t.Error("a cgroup that is no longer configured is still sealed")
	}
}

func TestDownAfterKill(t *testing.T) {
	s, cfg := killed(t, nil)
	if err := downAt(s.host, cfg); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
	if err := downAt(s.host, cfg); err != nil {
		t.Errorf("without leftovers: %v", err)
	}
}

// A running instance is neither cleared nor opened twice.
func TestLivingInstance(t *testing.T) {
	s := openSeal(t, nil)
	err := downAt(s.host, s.cfg)
	if !errors.Is(err, ErrOwned) || !strings.Contains(err.Error(), "is running (process ") {
		t.Errorf("down: %v", err)
	}
	again := s.cfg
	err = s.host.Do(func() error {
		i, err := Open(t.Context(), again)
		if err == nil {
			return i.Close()
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("open twice: %v", err)
	}
	s.client(t).Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, s.cfg)
}

// A command whose instance was killed stays sealed. The next start of any instance kills it.
func TestEphemeralAfterKill(t *testing.T) {
	var own *cgroup.Created
	s, cfg := killed(t, func(cfg *Config) {
		var err error
		if own, err = cgroup.Create(cfg.Cgroups[0], "command"); err != nil {
			t.Fatal(err)
		}
		cfg.Cgroups, cfg.Ephemeral = []string{own.Path()}, true
	})
	group := &netlab.Cgroup{Path: own.Path()}
	left := leaveBehind(t, s, group)
	next := sealTestConfig(t, s.group)
	next.Name, next.RunDir = "sotto-next", cfg.RunDir
	next.Prefix4, next.Prefix6 = network.NthAssignment(60).Prefix4, network.NthAssignment(60).Prefix6
	i := openAt(t, s.host, next)
	if err := left.Wait(); err == nil {
		t.Error("the process of the command exited by itself")
	}
	if _, err := os.Stat(own.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its cgroup was not removed: %v", err)
	}
	nothingLeft(t, s.host, cfg)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, next)
}

// leaveBehind starts a process in a cgroup that runs until it is killed.
func leaveBehind(t *testing.T, s *testSeal, group *netlab.Cgroup) *netlab.Cmd {
	t.Helper()
	cmd := s.host.Command(t.Context(), nil, "sh", "-c", "echo $$ > "+group.Path+"/cgroup.procs && echo in && exec sleep 60")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// The innermost seal applies, regardless of the order in which they start. When it stops, the
// outer one applies again.
func TestSealInsideSeal(t *testing.T) {
	for _, order := range []string{"outer first", "inner first"} {
		t.Run(order, func(t *testing.T) {
			s := &testSeal{}
			s.lab, s.host, s.lan = labtest.LAN(t)
			var err error
			if s.group, err = s.lab.Cgroup("work"); err != nil {
				t.Fatal(err)
			}
			below, err := s.lab.Below(s.group, "command")
			if err != nil {
				t.Fatal(err)
			}
			outerCfg := sealTestConfig(t, s.group)
			// With a name, because another instance on this machine may have sotto-0.
			innerCfg := Config{Name: outerCfg.Name + "i", Ephemeral: true, Cgroups: []string{below.Path}, RunDir: outerCfg.RunDir, BPFFS: outerCfg.BPFFS,
				Log: slog.New(slog.DiscardHandler)}
			open := func(cfg Config) *Instance {
				i := openAt(t, s.host, cfg)
				listen(t, i)
				if err := i.Attach(); err != nil {
					t.Fatal(err)
				}
				return i
			}
			var outer, inner *Instance
			if order == "outer first" {
				outer = open(outerCfg)
				inner = open(innerCfg)
			} else {
				inner = open(innerCfg)
				outer = open(outerCfg)
			}
			// Only the counters of its own instance increase.
			wantSealedBy := func(group *netlab.Cgroup, by, other *Instance) {
				t.Helper()
				mine, theirs := by.Counters()["send"], other.Counters()["send"]
				clienttest.Start(t, s.host, group).Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => 8.8.8.8:53 by " +
					workloadOf(by, group.ID) + " from 8.8.8.8:53")
				if by.Counters()["send"] != mine+1 || other.Counters()["send"] != theirs {
					t.Errorf("%s was not sealed only by its own instance", group.Path)
				}
			}
			wantSealedBy(below, inner, outer)
			wantSealedBy(s.group, outer, inner)
			if err := inner.Close(); err != nil {
				t.Fatal(err)
			}
			before := outer.Counters()["send"]
			clienttest.Start(t, s.host, below).Want("socket a udp4 => ok\nsendto a 8.8.8.8:53 => ok\nrecv a => 8.8.8.8:53 by " +
				workloadOf(outer, below.ID) + " from 8.8.8.8:53")
			if outer.Counters()["send"] != before+1 {
				t.Error("the outer instance does not seal it again")
			}
		})
	}
}
