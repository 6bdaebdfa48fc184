// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"sotto/bpf"
	"sotto/internal/netns"
)

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
	// Each mount is a file system of its own: in a mount namespace of this process's own
	// the pins, and the seal with them, would not outlive it.
	if _, err := netns.InHome(dir, func() error { return mountBPFFS(dir) }); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w; in a container: -v %s:%s", dir, err, dir, dir)
	}
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s: bpffs was mounted there for PID 1 and is not seen here: turn on mount propagation, or mount it before this process starts", dir)
	}
	return nil
}

// mountBPFFS mounts the file system of pins in the calling thread's mount namespace.
func mountBPFFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type == unix.BPF_FS_MAGIC {
		return err
	}
	return unix.Mount("bpf", dir, "bpf", 0, "mode=0700")
}

// kernel is the programs and maps of one instance.
type kernel struct {
	bpf.SottoObjects
	dir     string
	count   uint32 // addresses of a prefix
	adopted bool   // the maps are those of an earlier process
	refs    references
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
	if err := errors.Join(makePrivate(filepath.Dir(k.dir)), makePrivate(k.dir)); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	spec, err := k.spec(cfg)
	if err != nil {
		return nil, err
	}
	maps, err := k.adopt(spec, cfg, wanted, w)
	if err != nil {
		return nil, err
	}
	defer closeMaps(maps)
	k.refs = references{cfg: cfg, count: k.count}
	if err := k.setShares(spec, cfg, wanted, w.root); err != nil {
		return nil, err
	}
	err = spec.LoadAndAssign(&k.SottoObjects, &ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, fmt.Errorf("load the BPF programs: %w", explain(err))
	}
	k.adopted = maps != nil
	if !k.adopted {
		err = k.fill(cfg)
	}
	if err = errors.Join(err, k.pinMaps(maps)); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// Close releases the descriptors. What is pinned stays.
func (k *kernel) Close() error { return errors.Join(k.refs.close(), k.SottoObjects.Close()) }

// loadObject reads the object with the programs and maps. Tests load one of another version.
var loadObject = bpf.LoadSotto

// spec is the programs with the settings of the instance folded in.
func (k *kernel) spec(cfg *Config) (*ebpf.CollectionSpec, error) {
	spec, err := loadObject()
	if err != nil {
		return nil, fmt.Errorf("read the BPF programs: %w", err)
	}
	for _, name := range []string{bpf.SottoMapForward, bpf.SottoMapSlots, bpf.SottoMapOrigins, bpf.SottoMapFreeSlots} {
		spec.Maps[name].MaxEntries = k.count
	}
	spec.Maps[bpf.SottoMapShares].MaxEntries = sharesPerSlot * k.count
	if !cfg.GuardHost {
		spec.Maps[bpf.SottoMapPassed].MaxEntries = 1 // not used
	}
	var ports [maxPorts]uint16
	for i, p := range cfg.Ports {
		ports[i] = toBE16(p)
	}
	cookie, err := netnsCookie()
	if err != nil {
		return nil, err
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
		bpf.SottoVarRecounts:     flag(canCountReferences()),
		bpf.SottoVarVirtualTag:   uint16(rand.Uint32N(math.MaxUint16)) + 1,
		bpf.SottoVarLingerNs:     uint64(cfg.Linger),
		bpf.SottoVarHasSetRetval: flag(hasSetRetval()),
		bpf.SottoVarGuarded:      flag(cfg.Guard != GuardOff),
		bpf.SottoVarGuardsHost:   flag(cfg.GuardHost),
		bpf.SottoVarHomeCookie:   cookie,
		bpf.SottoVarBackMark:     rand.Uint32N(math.MaxUint32) + 1,
		bpf.SottoVarPrefix4Mask:  uint32(math.MaxUint32) << (32 - cfg.Prefix4.Bits()),
		bpf.SottoVarPrefix6Mask:  mask6(cfg),
		bpf.SottoVarVethHost:     [6]byte(macHost),
		bpf.SottoVarVethInner:    [6]byte(macInner),
		bpf.SottoVarOpenAfterNs:  uint64(cfg.OpenAfter),
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

func mask6(cfg *Config) (words [4]uint32) {
	mask := net.CIDRMask(cfg.Prefix6.Bits(), 128)
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(mask[4*i:])
	}
	return words
}

// flag is a bool as the programs have it.
func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// netnsCookie is what bpf_get_netns_cookie gives for the calling thread's network
// namespace; 0 where the kernel does not tell (before 5.14).
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("look at the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at the network namespace: %w", err)
	}
	return cookie, nil
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
