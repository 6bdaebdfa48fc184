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
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"sotto/bpf"
)

// layoutVersion is LAYOUT in bpf/settings.h.
const layoutVersion = 1

// pinDir is where the pins of an instance are.
func pinDir(bpffs, name string) string { return filepath.Join(bpffs, "sotto", name) }

// ensureBPFFS mounts the file system of pins where it is not.
func ensureBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w; in a container: -v %s:%s", dir, err, dir, dir)
	}
	return nil
}

// kernel is the programs and maps of one instance.
type kernel struct {
	bpf.SottoObjects
	dir     string
	count   uint32 // addresses of a prefix
	adopted bool   // the maps are those of an earlier process
}

// loadKernel loads the programs, with the maps that an earlier process of the
// instance left if they fit, or with new ones. All maps are pinned then. The
// caller closes it; the pins stay.
func loadKernel(cfg *Config, wanted []group, w *workloads) (_ *kernel, err error) {
	if err := rlimit.RemoveMemlock(); err != nil { // before 5.11 maps count against it
		return nil, fmt.Errorf("raise limit of locked memory: %w", err)
	}
	if err := ensureBPFFS(cfg.BPFFS); err != nil {
		return nil, err
	}
	k := &kernel{dir: pinDir(cfg.BPFFS, cfg.Name), count: cfg.slotCount()}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	spec, err := k.spec(cfg)
	if err != nil {
		return nil, err
	}
	maps := k.adopt(spec, cfg, wanted, w)
	defer closeMaps(maps)
	err = spec.LoadAndAssign(&k.SottoObjects, &ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, fmt.Errorf("load the BPF programs: %w", explain(err))
	}
	k.adopted = maps != nil
	if k.adopted {
		return k, nil
	}
	if err := errors.Join(k.fill(cfg), k.pinMaps()); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// spec is the programs with the settings of the instance folded in.
func (k *kernel) spec(cfg *Config) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadSotto()
	if err != nil {
		return nil, fmt.Errorf("read the BPF programs: %w", err)
	}
	for _, name := range []string{bpf.SottoMapForward, bpf.SottoMapSlots, bpf.SottoMapOrigins, bpf.SottoMapFreeSlots, bpf.SottoMapQuota} {
		spec.Maps[name].MaxEntries = k.count
	}
	var ports [maxPorts]uint16
	for i, p := range cfg.Ports {
		ports[i] = toBE16(p)
	}
	retval := uint8(0)
	if hasSetRetval() {
		retval = 1
	}
	var errs []error
	for name, value := range map[string]any{
		bpf.SottoVarPorts:        ports,
		bpf.SottoVarPortCount:    uint32(len(cfg.Ports)),
		bpf.SottoVarListenerPort: toBE16(listenerPort),
		bpf.SottoVarPrefix4:      base4(cfg),
		bpf.SottoVarPrefix6:      base6(cfg),
		bpf.SottoVarSlotCount:    k.count,
		bpf.SottoVarQuotaMax:     cfg.quota(),
		bpf.SottoVarLingerNs:     uint64(cfg.Linger),
		bpf.SottoVarHasSetRetval: retval,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			errs = append(errs, fmt.Errorf("set %s in the BPF programs: %w", name, err))
		}
	}
	return spec, errors.Join(errs...)
}

// listenerPort is where the listener waits at every virtual address.
const listenerPort = 53

// toBE16 gives the bytes of v in network order, as a number of this machine.
func toBE16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func base4(cfg *Config) uint32 {
	a := cfg.Prefix4.Addr().As4()
	return binary.BigEndian.Uint32(a[:])
}

func base6(cfg *Config) (words [4]uint32) {
	a := cfg.Prefix6.Addr().As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(a[4*i:])
	}
	return words
}

// fill makes fresh maps ready: every slot free, but the reserved addresses. The
// settings come last: maps without them are half made, and nobody adopts them.
func (k *kernel) fill(cfg *Config) error {
	for idx := uint32(firstSlotIndex); idx < k.count-1; idx++ {
		if err := k.FreeSlots.Put(nil, idx); err != nil {
			return fmt.Errorf("fill the queue of free slots: %w", err)
		}
	}
	err := k.Settings.Put(uint32(0), bpf.SottoInstance{
		Layout: layoutVersion, SlotCount: k.count, Prefix4: base4(cfg), Prefix6: base6(cfg),
	})
	if err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// pins are the maps that are pinned, by name. All of them: adopted programs and
// new ones must mean the same slots, sockets and quotas.
func (k *kernel) pins() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpf.SottoMapConnected: k.Connected,
		bpf.SottoMapCounters:  k.Counters,
		bpf.SottoMapExclude:   k.Exclude,
		bpf.SottoMapForward:   k.Forward,
		bpf.SottoMapFreeSlots: k.FreeSlots,
		bpf.SottoMapOrigins:   k.Origins,
		bpf.SottoMapOwn:       k.Own,
		bpf.SottoMapQuota:     k.Quota,
		bpf.SottoMapSettings:  k.Settings,
		bpf.SottoMapSlots:     k.Slots,
	}
}

// mapPin keeps the names of maps apart from those of links.
func mapPin(dir, name string) string { return filepath.Join(dir, "map_"+name) }

// pinMaps replaces the pins of maps that were not adopted. Programs that still use
// those keep them.
func (k *kernel) pinMaps() error {
	for name, m := range k.pins() {
		path := mapPin(k.dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old pin: %w", err)
		}
		if err := m.Pin(path); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// adopt opens the maps that an earlier process left, nil when there are none that
// fit: made for other prefixes or by another layout, or hooked to a cgroup that is
// no longer sealed, whose sockets would hold their slots for ever.
func (k *kernel) adopt(spec *ebpf.CollectionSpec, cfg *Config, wanted []group, w *workloads) map[string]*ebpf.Map {
	maps := make(map[string]*ebpf.Map)
	for name := range k.pins() {
		m, err := ebpf.LoadPinnedMap(mapPin(k.dir, name), nil)
		if err != nil {
			closeMaps(maps)
			return nil
		}
		maps[name] = m
		if spec.Maps[name].Compatible(m) != nil {
			closeMaps(maps)
			return nil
		}
	}
	var set bpf.SottoInstance
	err := maps[bpf.SottoMapSettings].Lookup(uint32(0), &set)
	fits := err == nil && set.Layout == layoutVersion && set.SlotCount == k.count &&
		set.Prefix4 == base4(cfg) && set.Prefix6 == base6(cfg) && !k.leavesGroups(wanted, w)
	if !fits {
		closeMaps(maps)
		return nil
	}
	return maps
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // a descriptor; the map stays
	}
}
