// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"sotto/intercept/pins"
	"sotto/internal/netlab/labtest"
)

// previousObject is the BPF object of the version before maps and programs were defined
// in sotto.c (commit 9eaa13e). It has the maps of slots and their constants.
const previousObject = "testdata/previous-version.o"

// openPrevious opens an instance with the programs and maps of that version.
func openPrevious(t *testing.T, s *testSeal, cfg Config) *Instance {
	t.Helper()
	loadObject = func() (*ebpf.CollectionSpec, error) { return loadPrevious() }
	defer func() { loadObject = loadSotto }()
	return openAt(t, s.host, cfg)
}

// loadPrevious reads the object, and adds the maps and constants that are new since. Its
// programs do not use them.
func loadPrevious() (*ebpf.CollectionSpec, error) {
	spec, err := ebpf.LoadCollectionSpec(previousObject)
	if err != nil {
		return nil, err
	}
	current, err := loadSotto()
	if err != nil {
		return nil, err
	}
	for name, m := range current.Maps {
		if spec.Maps[name] == nil {
			spec.Maps[name] = m.Copy()
		}
	}
	for name, v := range current.Variables {
		if spec.Variables[name] == nil {
			spec.Variables[name] = inPadding(spec, v.Copy())
		}
	}
	return spec, nil
}

// inPadding moves a constant to bytes between those of an object, or behind them.
func inPadding(spec *ebpf.CollectionSpec, v *ebpf.VariableSpec) *ebpf.VariableSpec {
	all := slices.SortedFunc(maps.Values(spec.Variables), func(a, b *ebpf.VariableSpec) int { return int(a.Offset) - int(b.Offset) })
	v.Offset = 0
	for _, other := range all {
		if v.Offset+v.Size() <= other.Offset {
			break
		}
		v.Offset = other.Offset + other.Size()
	}
	if section := spec.Maps[v.SectionName]; v.Offset+v.Size() > section.ValueSize {
		section.ValueSize = v.Offset + v.Size()
		old := section.Contents[0].Value.([]byte)
		section.Contents[0].Value = append(slices.Clone(old), make([]byte, int(section.ValueSize)-len(old))...)
		section.Value = nil // its type has the old size
	}
	return v
}

// A running instance of the previous version is adopted with all its maps: slots keep their
// original destinations and references, sockets their slots, and queries are answered.
func TestAdoptPreviousVersion(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	cfg := sealTestConfig(t, s.group)
	t.Cleanup(func() {
		if err := downAt(s.host, cfg); err != nil {
			t.Error(err)
		}
	})
	s.Instance = openPrevious(t, s, cfg)
	stopListening := listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	c := s.client(t)
	connected := "send a => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53\npeer a => 8.8.8.8:53\n" +
		"send b => ok\nrecv b => " + s.about("[2001:db8::53]:53") + " from [2001:db8::53]:53\npeer b => [2001:db8::53]:53\n"
	unconnected := "sendto u 9.9.9.9:53 => ok\nrecv u => " + s.about("9.9.9.9:53") + " from 9.9.9.9:53\n"
	raw := "rawto r 8.8.8.8:53 => EPERM\n"
	c.Want("socket a udp4 => ok\nconnect a 8.8.8.8:53 => ok\nsocket b udp6 => ok\nconnect b [2001:db8::53]:53 => ok\n" +
		"socket u udp4 => ok\nsocket r raw4 => ok\n" + connected + unconnected + raw)
	stopListening()
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	previous, err := ebpf.LoadCollectionSpec(previousObject)
	if err != nil {
		t.Fatal(err)
	}
	for name := range s.kernel.pinnedMaps() {
		if previous.Maps[name] == nil { // the previous version does not pin it
			if err := os.Remove(pins.Map(s.kernel.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The pins of maps that the previous version has. Counters that were added since are copied.
	pinned := func() []string {
		return slices.DeleteFunc(pinsOf(t, s.kernel.dir), func(pin string) bool {
			name, _, _ := strings.Cut(pin, " ")
			return previous.Maps[name] == nil || name == sottoMapCounters
		})
	}
	before := pinned()

	s.Instance = openAt(t, s.host, cfg)
	if after := pinned(); !slices.Equal(before, after) {
		t.Errorf("maps were %v, are %v", before, after)
	}
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	c.Want(connected + unconnected + raw)
	if used, refs := s.slotsUsed(t); used != 3 || refs != 2 {
		t.Errorf("%d slots are in use with %d references", used, refs)
	}
	n := s.Counters()
	for name, want := range map[string]uint64{"connect": 2, "send": 2, "slot_new": 3, "reply": 6, "peer": 4, "stopped_socket": 2} {
		if n[name] != want {
			t.Errorf("counted %s %d times, want %d", name, n[name], want)
		}
	}
	c.Want("close a => ok\nclose b => ok")
	if _, refs := s.slotsUsed(t); refs != 0 {
		t.Errorf("%d references remain after the sockets were closed", refs)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s.host, cfg)
}
