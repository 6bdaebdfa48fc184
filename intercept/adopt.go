// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"sotto/bpf"
)

// layoutVersion is LAYOUT in bpf/settings.h: what the maps mean that carry slots. A
// process adopts no other. The maps beside those may change from version to version:
// what does not fit is made anew, and counters are carried over.
const layoutVersion = 1

// carriers are the maps that make a slot mean what it means, for the sockets that hold
// one and for the workloads that may: all of them are adopted, or none.
var carriers = []string{
	bpf.SottoMapConnected, bpf.SottoMapExclude, bpf.SottoMapForward, bpf.SottoMapFreeSlots, bpf.SottoMapOrigins,
	bpf.SottoMapOwn, bpf.SottoMapSettings, bpf.SottoMapSlots,
}

// pins are the maps that are pinned, by name: all of them.
func (k *kernel) pins() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpf.SottoMapArrivals:  k.Arrivals,
		bpf.SottoMapConnected: k.Connected,
		bpf.SottoMapCounters:  k.Counters,
		bpf.SottoMapDaemon:    k.Daemon,
		bpf.SottoMapExclude:   k.Exclude,
		bpf.SottoMapFlows:     k.Flows,
		bpf.SottoMapForward:   k.Forward,
		bpf.SottoMapFreeSlots: k.FreeSlots,
		bpf.SottoMapLinks:     k.Links,
		bpf.SottoMapOrigins:   k.Origins,
		bpf.SottoMapOwn:       k.Own,
		bpf.SottoMapPassed:    k.Passed,
		bpf.SottoMapReplaced:  k.Replaced,
		bpf.SottoMapSealed:    k.Sealed,
		bpf.SottoMapSent:      k.Sent,
		bpf.SottoMapSettings:  k.Settings,
		bpf.SottoMapShares:    k.Shares,
		bpf.SottoMapSlots:     k.Slots,
	}
}

// mapPin keeps the names of maps apart from those of links.
func mapPin(dir, name string) string { return filepath.Join(dir, "map_"+name) }

// pinMaps pins the maps that were not adopted, in place of what has their names.
// Programs that still use those keep them.
func (k *kernel) pinMaps(adopted map[string]*ebpf.Map) error {
	for name, m := range k.pins() {
		if adopted[name] != nil {
			continue
		}
		path := mapPin(k.dir, name)
		if isPinned(m, path) {
			continue
		}
		if name == bpf.SottoMapCounters {
			if err := k.carryCounters(path); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old pin: %w", err)
		}
		if err := m.Pin(path); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// isPinned tells whether a pin is of that very map.
func isPinned(m *ebpf.Map, pin string) bool {
	old, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return false
	}
	defer old.Close()
	a, err := m.Info()
	if err != nil {
		return false
	}
	b, err := old.Info()
	if err != nil {
		return false
	}
	idA, okA := a.ID()
	idB, okB := b.ID()
	return okA && okB && idA == idB
}

// carryCounters adds what an earlier process counted, if it had fewer or other
// counters: their order never changes.
func (k *kernel) carryCounters(pin string) error {
	old, err := ebpf.LoadPinnedMap(pin, nil)
	if errors.Is(err, fs.ErrNotExist) || !k.adopted {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the counters of an earlier process: %w", err)
	}
	defer old.Close()
	for at := range min(old.MaxEntries(), k.Counters.MaxEntries()) {
		var perCPU []uint64
		if err := old.Lookup(at, &perCPU); err != nil {
			return fmt.Errorf("read the counters of an earlier process: %w", err)
		}
		if err := k.Counters.Put(at, perCPU); err != nil {
			return fmt.Errorf("carry over the counters: %w", err)
		}
	}
	return nil
}

// adopt opens the maps that an earlier process left. There are none (nil) when none
// fit: made for other prefixes, or hooked to a cgroup that is no longer sealed, whose
// sockets would hold their slots for ever. Maps of another layout, whose hooks are
// live, are refused: what they mean is not known here.
func (k *kernel) adopt(spec *ebpf.CollectionSpec, cfg *Config, wanted []group, w *workloads) (_ map[string]*ebpf.Map, err error) {
	maps := make(map[string]*ebpf.Map)
	adopted := false
	defer func() {
		if !adopted {
			closeMaps(maps)
		}
	}()
	settings, err := ebpf.LoadPinnedMap(mapPin(k.dir, bpf.SottoMapSettings), nil)
	if err != nil {
		return nil, nil // half made at most: the settings come last
	}
	maps[bpf.SottoMapSettings] = settings
	layout, err := layoutOf(settings)
	if err != nil {
		return nil, err
	}
	if layout != layoutVersion || spec.Maps[bpf.SottoMapSettings].Compatible(settings) != nil {
		return nil, k.refuse(layout)
	}
	var set bpf.SottoInstance
	if err := settings.Lookup(uint32(0), &set); err != nil {
		return nil, fmt.Errorf("read the settings of an earlier process: %w", err)
	}
	if set.SlotCount != k.count || set.Prefix4 != base4(cfg) || set.Prefix6 != base6(cfg) || k.leavesGroups(wanted, w) {
		return nil, nil
	}
	for name := range k.pins() {
		if maps[name] != nil {
			continue
		}
		if m, err := ebpf.LoadPinnedMap(mapPin(k.dir, name), nil); err == nil {
			maps[name] = m
		}
	}
	for name, m := range maps {
		if spec.Maps[name].Compatible(m) != nil {
			closeMaps(map[string]*ebpf.Map{name: m})
			delete(maps, name)
		}
	}
	for _, name := range carriers {
		if maps[name] == nil {
			return nil, k.refuse(layout)
		}
	}
	adopted = true
	return maps, nil
}

// layoutOf reads the first word of the settings, where every version has it. 0 is
// of maps that were never finished.
func layoutOf(settings *ebpf.Map) (uint32, error) {
	raw, err := settings.LookupBytes(uint32(0))
	if err != nil || len(raw) < 4 {
		return 0, fmt.Errorf("read the settings of an earlier process: %w", err)
	}
	return binary.NativeEndian.Uint32(raw), nil
}

// refuse says what to do about maps that are not understood. Without hooks they mean
// nothing to anybody, and are replaced.
func (k *kernel) refuse(layout uint32) error {
	live, err := hooked(k.dir)
	if err != nil || !live {
		return err
	}
	return fmt.Errorf("adopt %s: another version of Sotto left its hooks there (maps of layout %d; this version knows %d): "+
		"stop that one, take away what it left with 'sotto down', and start again", k.dir, layout, layoutVersion)
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // a descriptor; the map stays
	}
}
