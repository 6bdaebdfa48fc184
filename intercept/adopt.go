// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"

	"sotto/intercept/cgroup"
	"sotto/intercept/pins"
)

// layoutVersion is LAYOUT in bpf/settings.h: the version of the maps that define slots. A
// process does not adopt maps of another version. The other maps may change between
// versions: a map that does not fit is made again, and counters are copied.
const layoutVersion = 1

// slotMaps are the maps that define the meaning of slots, for the sockets that hold one and
// for the workloads that may. All of them are adopted, or none.
var slotMaps = []string{
	sottoMapConnected, sottoMapExclude, sottoMapForward, sottoMapFreeSlots, sottoMapOrigins,
	sottoMapOwn, sottoMapSettings, sottoMapSlots,
}

// pinnedMaps returns all maps that are pinned, by name. Senders, Watch and Drops are not: each
// process has its own.
func (k *kernel) pinnedMaps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		sottoMapAccepted:  k.Accepted,
		sottoMapArrivals:  k.Arrivals,
		sottoMapAskers:    k.Askers,
		sottoMapCallers:   k.Callers,
		sottoMapConnected: k.Connected,
		sottoMapCounters:  k.Counters,
		sottoMapDaemon:    k.Daemon,
		sottoMapExclude:   k.Exclude,
		sottoMapFlows:     k.Flows,
		sottoMapForward:   k.Forward,
		sottoMapFreeSlots: k.FreeSlots,
		sottoMapLinks:     k.Links,
		sottoMapLocals:    k.Locals,
		sottoMapNamed:     k.Named,
		sottoMapOrigins:   k.Origins,
		sottoMapOwn:       k.Own,
		sottoMapPassed:    k.Passed,
		sottoMapReplaced:  k.Replaced,
		sottoMapSealed:    k.Sealed,
		sottoMapSent:      k.Sent,
		sottoMapSettings:  k.Settings,
		sottoMapShares:    k.Shares,
		sottoMapSlots:     k.Slots,
		sottoMapSubtrees:  k.Subtrees,
	}
}

// pinMaps pins the maps that were not adopted, and removes older pins with the same names.
// Programs that use the older maps keep them open.
func (k *kernel) pinMaps(adopted map[string]*ebpf.Map) error {
	for name, m := range k.pinnedMaps() {
		if adopted[name] != nil {
			continue
		}
		pin := pins.Map(k.dir, name)
		if isPinned(m, pin) {
			continue
		}
		if name == sottoMapCounters {
			if err := k.copyCounters(pin); err != nil {
				return err
			}
		}
		if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old pin: %w", err)
		}
		if err := m.Pin(pin); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// isPinned reports whether a pin is that of the map m.
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

// copyCounters copies the counters of an earlier process that had another number of them.
// Their order never changes.
func (k *kernel) copyCounters(pin string) error {
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
			return fmt.Errorf("copy the counters: %w", err)
		}
	}
	return nil
}

// adopt opens the maps that an earlier process left. It returns nil if they do not fit: they
// were made for other prefixes, or for a cgroup that is no longer sealed, whose sockets
// would never release their slots. It returns an error if the maps have another layout and
// hooks use them.
func (k *kernel) adopt(spec *ebpf.CollectionSpec, cfg *Config, wanted []cgroup.Group, paths *cgroup.Paths) (_ map[string]*ebpf.Map, err error) {
	maps := make(map[string]*ebpf.Map)
	adopted := false
	defer func() {
		if !adopted {
			closeMaps(maps)
		}
	}()
	settings, err := ebpf.LoadPinnedMap(pins.Map(k.dir, sottoMapSettings), nil)
	if err != nil {
		return nil, nil // the maps were not all pinned, so no hook was attached
	}
	maps[sottoMapSettings] = settings
	layout, err := layoutOf(settings)
	if err != nil {
		return nil, err
	}
	if layout != layoutVersion || spec.Maps[sottoMapSettings].Compatible(settings) != nil {
		return nil, k.layoutError(layout)
	}
	var set sottoInstance
	if err := settings.Lookup(uint32(0), &set); err != nil {
		return nil, fmt.Errorf("read the settings of an earlier process: %w", err)
	}
	prefixes := prefixesOf(cfg)
	if set.SlotCount != k.count || set.Prefix4 != prefixes.Base4 || set.Prefix6 != prefixes.Base6 || k.hasOtherGroups(wanted, paths) {
		return nil, nil
	}
	for name := range k.pinnedMaps() {
		if maps[name] != nil {
			continue
		}
		if m, err := ebpf.LoadPinnedMap(pins.Map(k.dir, name), nil); err == nil {
			maps[name] = m
		}
	}
	for name, m := range maps {
		if spec.Maps[name].Compatible(m) != nil {
			closeMaps(map[string]*ebpf.Map{name: m})
			delete(maps, name)
		}
	}
	for _, name := range slotMaps {
		if maps[name] == nil {
			return nil, k.layoutError(layout)
		}
	}
	adopted = true
	return maps, nil
}

// layoutOf reads the first word of the settings, which is the layout in all versions. 0 is
// that of incomplete maps.
func layoutOf(settings *ebpf.Map) (uint32, error) {
	raw, err := settings.LookupBytes(uint32(0))
	if err != nil || len(raw) < 4 {
		return 0, fmt.Errorf("read the settings of an earlier process: %w", err)
	}
	return binary.NativeEndian.Uint32(raw), nil
}

// layoutError returns the error for maps of another layout. It returns nil if no hook uses
// them: they are replaced.
func (k *kernel) layoutError(layout uint32) error {
	live, err := pins.HasHooks(k.dir)
	if err != nil || !live {
		return err
	}
	return fmt.Errorf("adopt %s: another version of Sotto left its hooks there (maps of layout %d; this version has %d): "+
		"stop that version, remove its leftovers with 'sotto down', and start again", k.dir, layout, layoutVersion)
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // only the descriptor
	}
}
