// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/intercept/pins"
	"sotto/intercept/references"
)

// The clang is pinned because another version makes another object. Both include paths are
// named because only their location depends on the architecture of the machine.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package hits -type hit_key -type hit -type short_hit -type long_hit -type hit_slot -type hit_state -type hit_bucket -type hit_verdict -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" hits ../../bpf/hits.c

// layoutVersion is HIT_LAYOUT in bpf/hits.h.
const layoutVersion = 2

// Config describes a table. All fields are required, except Evicted.
type Config struct {
	Prefixes     references.Prefixes
	ListenerPort uint16 // in network byte order
	Slots        uint32 // addresses of a prefix
	Host, Inner  [6]byte
	Tag          uint16    // tc_index of replies
	Origins      *ebpf.Map // of the instance
	Daemon       *ebpf.Map
	PinDir       string

	// Entries is the number of answers of up to 512 bytes. There is a quarter as many longer
	// ones. At least 16.
	Entries int

	// Evicted, if not nil, is called with the tag of an answer that was removed for others. It
	// must not call methods of the table.
	Evicted func(tag []byte)
}

// longFraction is how many short entries there are for a long one: answers above 512 bytes are
// rare, and need almost three times the memory.
const longFraction = 4

// Open loads the program, with the maps that an earlier process left in PinDir if they fit, or
// with new ones, which it pins. The program continues to give the answers of that process until
// [Table.Start]. The caller closes the table; pins stay.
func Open(cfg Config) (_ *Table, err error) {
	spec, err := spec(&cfg)
	if err != nil {
		return nil, err
	}
	existing := adopt(spec, &cfg)
	defer func() {
		for _, m := range existing {
			_ = m.Close() // only the descriptor
		}
	}()
	all := map[string]*ebpf.Map{hitsMapOrigins: cfg.Origins, hitsMapDaemon: cfg.Daemon}
	for name, m := range existing {
		all[name] = m
	}
	t := &Table{cfg: cfg, retired: make(map[uint32]bool)}
	if err := spec.LoadAndAssign(&t.objects, &ebpf.CollectionOptions{MapReplacements: all}); err != nil {
		return nil, fmt.Errorf("load the program that answers cached queries: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if existing == nil {
		first := hitsHitState{Layout: layoutVersion, FirstClass: 1, Seed: rand.Uint64()}
		if err := t.objects.HitControl.Put(uint32(0), first); err != nil {
			return nil, fmt.Errorf("initialise the answers in the kernel: %w", err)
		}
		if err := t.Pin(); err != nil {
			return nil, err
		}
	}
	return t, t.mapMemory()
}

// spec returns the program with its constants, and the maps with their sizes.
func spec(cfg *Config) (*ebpf.CollectionSpec, error) {
	spec, err := loadHits()
	if err != nil {
		return nil, fmt.Errorf("read the program that answers cached queries: %w", err)
	}
	short, long := uint32(cfg.Entries), uint32(cfg.Entries/longFraction)
	for name, n := range map[string]uint32{
		hitsMapShortHits: short, hitsMapLongHits: long, hitsMapHitIndex: buckets(short + long),
		hitsMapHitSlots: cfg.Slots, hitsMapOrigins: cfg.Slots,
	} {
		spec.Maps[name].MaxEntries = n
	}
	var errs []error
	for name, value := range map[string]any{
		hitsVarListenerPort: cfg.ListenerPort, hitsVarSlotCount: cfg.Slots,
		hitsVarPrefix4: cfg.Prefixes.Base4, hitsVarPrefix4Mask: cfg.Prefixes.Mask4,
		hitsVarPrefix6: cfg.Prefixes.Base6, hitsVarPrefix6Mask: cfg.Prefixes.Mask6,
		hitsVarVethHost: cfg.Host, hitsVarVethInner: cfg.Inner, hitsVarAnswerTag: cfg.Tag, hitsVarIndexMask: buckets(short+long) - 1,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			errs = append(errs, fmt.Errorf("set %s in the program that answers cached queries: %w", name, err))
		}
	}
	return spec, errors.Join(errs...)
}

// pinned are the maps that outlive the process.
var pinned = []string{hitsMapHitControl, hitsMapHitIndex, hitsMapShortHits, hitsMapLongHits, hitsMapHitSlots, hitsMapHitCounters}

// adopt opens the maps that an earlier process left. It returns nil unless all of them fit: a
// part of them has no meaning.
func adopt(spec *ebpf.CollectionSpec, cfg *Config) map[string]*ebpf.Map {
	found := make(map[string]*ebpf.Map)
	for _, name := range pinned {
		m, err := ebpf.LoadPinnedMap(pins.Map(cfg.PinDir, name), nil)
		if err == nil {
			found[name] = m
			err = spec.Maps[name].Compatible(m)
		}
		var state hitsHitState
		if err == nil && name == hitsMapHitControl {
			err = m.Lookup(uint32(0), &state)
			if err == nil && state.Layout != layoutVersion {
				err = errors.New("another layout")
			}
		}
		if err != nil {
			for _, m := range found {
				_ = m.Close()
			}
			return nil
		}
	}
	return found
}

// maps returns the pinned maps by name.
func (t *Table) maps() map[string]*ebpf.Map {
	o := &t.objects
	return map[string]*ebpf.Map{
		hitsMapHitControl: o.HitControl, hitsMapHitIndex: o.HitIndex, hitsMapShortHits: o.ShortHits,
		hitsMapLongHits: o.LongHits, hitsMapHitSlots: o.HitSlots, hitsMapHitCounters: o.HitCounters,
	}
}

// Pin pins the maps in place of others, such as those of another process that failed to take over.
func (t *Table) Pin() error {
	for _, name := range pinned {
		pin := pins.Map(t.cfg.PinDir, name)
		if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old pin: %w", err)
		}
		// A map remembers its pin, also when that was replaced by another process.
		m, err := t.maps()[name].Clone()
		if err == nil {
			err = errors.Join(m.Pin(pin), m.Close())
		}
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// RemovePins removes what an earlier process left in dir. Its program continues with the maps
// until it is detached.
func RemovePins(dir string) error {
	var errs []error
	for _, name := range pinned {
		if err := os.Remove(pins.Map(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove old pin: %w", err))
		}
	}
	return errors.Join(errs...)
}

// memory is the part of the maps that is mapped into the process. It is unmapped when it is
// garbage collected, since a reader may still use it when the table is closed.
type memory struct {
	control *hitsHitState
	index   []hitsHitBucket
	slots   []hitsHitSlot
	short   []hitsShortHit
	long    []hitsLongHit
}

func (t *Table) mapMemory() (err error) {
	m := &memory{}
	t.mem = m
	control, err := mapArray[hitsHitState](m, t.objects.HitControl)
	if err != nil {
		return err
	}
	m.control = &control[0]
	if m.index, err = mapArray[hitsHitBucket](m, t.objects.HitIndex); err != nil {
		return err
	}
	if m.slots, err = mapArray[hitsHitSlot](m, t.objects.HitSlots); err != nil {
		return err
	}
	if m.short, err = mapArray[hitsShortHit](m, t.objects.ShortHits); err != nil {
		return err
	}
	m.long, err = mapArray[hitsLongHit](m, t.objects.LongHits)
	return err
}

// mapArray maps an array. The size of its elements is a multiple of eight bytes, so that there is
// no padding between them. The memory is unmapped with owner.
func mapArray[T any](owner *memory, m *ebpf.Map) ([]T, error) {
	size, page := int(unsafe.Sizeof(*new(T))), os.Getpagesize()
	if size != int(m.ValueSize()) {
		return nil, fmt.Errorf("map %s into memory: its elements have %d bytes and not %d", m, m.ValueSize(), size)
	}
	n := int(m.MaxEntries())
	mem, err := unix.Mmap(m.FD(), 0, (n*size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	runtime.AddCleanup(owner, func(mem []byte) { _ = unix.Munmap(mem) }, mem)
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), n), nil
}
