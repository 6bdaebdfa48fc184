// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"sotto/intercept/pins"
	"sotto/internal/netlab/labtest"
)

// earlierObject is the BPF object of an old version, with fifteen counters and without a guard
// and its maps.
const earlierObject = "testdata/maps-of-fifteen-counters.o"

// becomeEarlier replaces the maps and hooks of an instance that is not attached with those of
// the old version.
func becomeEarlier(t *testing.T, i *Instance) *ebpf.Collection {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(earlierObject)
	if err != nil {
		t.Fatal(err)
	}
	now, err := i.kernel.spec(&i.cfg, loadObject)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range spec.Maps {
		switch is := now.Maps[name]; {
		case strings.HasPrefix(name, "."): // constants
		case is != nil:
			m.MaxEntries = min(m.MaxEntries, is.MaxEntries)
		default:
			m.MaxEntries = min(m.MaxEntries, i.kernel.count)
		}
	}
	for name, v := range spec.Variables {
		value := make([]byte, v.Size())
		if err := now.Variables[name].Get(value); err != nil {
			t.Fatal(err)
		}
		if name == sottoVarQuotaMax { // that version had no shares
			value = binary.NativeEndian.AppendUint64(nil, uint64(i.kernel.count))
		}
		if err := v.Set(value); err != nil {
			t.Fatal(err)
		}
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := removePins(i.kernel.dir); err != nil {
		t.Fatal(err)
	}
	k := &kernel{dir: i.kernel.dir, count: i.kernel.count}
	k.FreeSlots, k.Settings = c.Maps[sottoMapFreeSlots], c.Maps[sottoMapSettings]
	if err := k.fill(&i.cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, m := range c.Maps {
		if strings.HasPrefix(name, ".") {
			continue
		}
		if err := m.Pin(pins.Map(k.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range k.hooks(false) {
		h.prog = c.Programs["sotto_"+h.name]
		for _, g := range i.groups {
			if err := attachHook(h, g, pins.Hook(k.dir, h.name, g.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if i.origins, err = newOrigins(&i.cfg, c.Maps[sottoMapOrigins]); err != nil {
		t.Fatal(err)
	}
	return c
}

// startEarlier returns a seal of the old version, with a listener.
func startEarlier(t *testing.T) (*testSeal, Config) {
	t.Helper()
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	becomeEarlier(t, s.Instance)
	listen(t, s.Instance)
	cfg := s.cfg
	t.Cleanup(func() {
		if err := downAt(s.host, cfg); err != nil {
			t.Error(err)
		}
	})
	return s, cfg
}

// The maps of an old version with other counters and fewer maps are adopted: slots keep their
// original destinations, sockets their slots, and counters their values.
func TestAdoptEarlierVersion(t *testing.T) {
	s, cfg := startEarlier(t)
	c := s.client(t)
	about := s.about("8.8.8.8:53") + " from 8.8.8.8:53"
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsend a => ok\nrecv a => " + about)
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	next := openAt(t, s.host, cfg)
	if !next.kernel.adopted {
		t.Fatal("the maps were not adopted")
	}
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	c.Want("send a => ok\nrecv a => " + about + "\npeer a => 8.8.8.8:53\nsocket r raw4 => ok\nrawto r 8.8.8.8:53 => EPERM")
	n := next.Counters()
	if n["connect"] != 1 || n["reply"] != 2 || n["peer"] != 1 || n["slot_new"] != 1 || n["stopped_socket"] != 1 {
		t.Errorf("counted %v", n)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
}

// Maps of another layout are not adopted. If hooks use them, Open returns an error with the fix
// and changes nothing; otherwise it replaces them.
func TestRefuseOtherLayout(t *testing.T) {
	s, cfg := startEarlier(t)
	pinned, err := ebpf.LoadPinnedMap(pins.Map(s.kernel.dir, sottoMapSettings), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	var set sottoInstance
	if err := pinned.Lookup(uint32(0), &set); err != nil {
		t.Fatal(err)
	}
	set.Layout = layoutVersion + 6
	if err := pinned.Put(uint32(0), set); err != nil {
		t.Fatal(err)
	}
	c := s.client(t)
	sealed := "sendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53"
	c.Want("socket a udp4 => ok\n" + sealed)
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	before := pinsOf(t, s.kernel.dir)
	err = s.host.Do(func() error {
		i, err := Open(t.Context(), cfg)
		if err == nil {
			_ = i.Close()
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "layout 7") || !strings.Contains(err.Error(), "sotto down") {
		t.Fatalf("open: %v", err)
	}
	if after := pinsOf(t, s.kernel.dir); !slices.Equal(before, after) {
		t.Errorf("the pins changed from %v to %v", before, after)
	}
	c.Want(sealed)
	if err := detachAll(s.kernel.dir); err != nil {
		t.Fatal(err)
	}
	next := openAt(t, s.host, cfg)
	if next.kernel.adopted {
		t.Error("maps of another layout were adopted")
	}
}

// pinsOf lists the pins with the IDs of their objects.
func pinsOf(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	for name := range maps.Keys((&kernel{}).pinnedMaps()) {
		m, err := ebpf.LoadPinnedMap(pins.Map(dir, name), nil)
		if err != nil {
			continue
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		all = append(all, fmt.Sprintf("%s is map %d", name, id))
		_ = m.Close()
	}
	slices.Sort(all)
	return all
}
