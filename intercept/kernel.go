// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"sotto/intercept/cgroup"
	"sotto/intercept/feature"
	"sotto/intercept/guard"
	"sotto/intercept/load"
	"sotto/intercept/network"
	"sotto/intercept/pins"
	"sotto/intercept/references"
	"sotto/intercept/registry"
	"sotto/intercept/spaces"
)

// The clang is pinned because another version makes another object. Both include paths are
// named because only their location depends on the architecture of the machine. One object
// serves all little-endian machines, because the programs use no registers and no kernel
// structures; there is none for big-endian machines, which are untested.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package intercept -type counter -type key -type slot -type origin -type instance -type guard -type share -type sender -type sender_key -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" sotto ../bpf/sotto.c

// kernel is the programs and maps of one instance.
type kernel struct {
	sottoObjects
	dir     string // of the pins
	count   uint32 // addresses of a prefix
	adopted bool   // the maps are those of an earlier process
	refs    *references.Counter
	tag     uint16 // tc_index of the kernel's replies
}

// loadKernel loads the programs, with the maps that an earlier process of the instance left
// if they fit, or with new ones. It pins all maps. The caller closes it; the pins stay.
func loadKernel(cfg *Config, read objectReader, wanted []cgroup.Group, paths *cgroup.Paths) (_ *kernel, err error) {
	if err := rlimit.RemoveMemlock(); err != nil { // before Linux 5.11 maps count against it
		return nil, fmt.Errorf("raise limit of locked memory: %w", err)
	}
	if err := pins.Mount(cfg.BPFFS); err != nil {
		return nil, err
	}
	k := &kernel{dir: pins.Dir(cfg.BPFFS, cfg.Name), count: cfg.slotCount(), tag: uint16(rand.Uint32N(math.MaxUint16)) + 1}
	k.refs = references.New(prefixesOf(cfg), k.count)
	defer func() {
		if err != nil {
			err = errors.Join(err, k.refs.Close())
		}
	}()
	if err := errors.Join(registry.MakePrivate(filepath.Dir(k.dir)), registry.MakePrivate(k.dir)); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	if err := k.loadCounter(cfg); err != nil {
		return nil, err
	}
	spec, err := k.spec(cfg, read)
	if err != nil {
		return nil, err
	}
	maps, err := k.adopt(spec, cfg, wanted, paths)
	if err != nil {
		return nil, err
	}
	defer closeMaps(maps)
	if err := k.setShares(spec, wanted, paths.Root()); err != nil {
		return nil, err
	}
	err = load.Assign(&k.sottoObjects, spec, maps)
	if err != nil {
		return nil, fmt.Errorf("load the BPF programs: %w", feature.Explain(err))
	}
	k.adopted = maps != nil
	if !k.adopted {
		err = k.fill(cfg)
	}
	if err = errors.Join(err, k.pinMaps(maps)); err != nil {
		return nil, errors.Join(err, k.sottoObjects.Close())
	}
	return k, nil
}

// loadCounter loads the program that counts references, because the hooks refuse MPTCP where
// the kernel cannot. A command does not wait for it: it has all slots, and stops soon.
func (k *kernel) loadCounter(cfg *Config) error {
	if cfg.Ephemeral {
		return nil
	}
	err := k.refs.Load()
	if !errors.Is(err, references.ErrUnsupported) {
		return err
	}
	cfg.Log.Debug("MPTCP connections to nameservers are refused: sockets that hold a slot cannot be counted", "err", err)
	return nil
}

// Close releases the file descriptors. What is pinned stays.
func (k *kernel) Close() error { return errors.Join(k.refs.Close(), k.sottoObjects.Close()) }

// loadObject reads the object with the programs and maps. Tests load one of another version.
var loadObject = loadSotto

// objectReader returns the result of loadObject.
type objectReader func() (*ebpf.CollectionSpec, error)

// readObject starts to read the object, which takes milliseconds.
func readObject() objectReader {
	read := sync.OnceValues(loadObject)
	go read()
	return read
}

// knowsCurrent is [feature.KnowsCurrent]. Tests replace it by that of an older kernel.
var knowsCurrent = feature.KnowsCurrent

// commandClients is the number of clients with a DNS port that servers of one command may have.
const commandClients = 1024

// spec returns the programs with the settings of the instance as constants.
func (k *kernel) spec(cfg *Config, read objectReader) (*ebpf.CollectionSpec, error) {
	spec, err := read()
	if err != nil {
		return nil, fmt.Errorf("read the BPF programs: %w", err)
	}
	for _, name := range []string{sottoMapForward, sottoMapSlots, sottoMapOrigins, sottoMapFreeSlots} {
		spec.Maps[name].MaxEntries = k.count
	}
	spec.Maps[sottoMapShares].MaxEntries = sharesPerSlot * k.count
	if !cfg.GuardHost {
		spec.Maps[sottoMapPassed].MaxEntries = 1 // not used
	}
	if cfg.Ephemeral {
		// The memory of these maps is allocated at the start.
		for _, name := range []string{sottoMapAskers, sottoMapAccepted} {
			spec.Maps[name].MaxEntries = commandClients
		}
	}
	if !cfg.Attribution {
		spec.Maps[sottoMapSenders].MaxEntries = 1 // not used
	}
	if cfg.Ephemeral {
		spec.Maps[sottoMapDrops].MaxEntries = uint32(os.Getpagesize()) // not used
	}
	if cfg.LocalResolvers != LocalKeep {
		spec.Maps[sottoMapLocals].MaxEntries = 1 // not used
	}
	var ports [MaxPorts]uint16
	for i, p := range cfg.Ports {
		ports[i] = htons(p)
	}
	cookie, err := spaces.Cookie()
	if err != nil {
		return nil, err
	}
	prefixes, mark := prefixesOf(cfg), packetMark(cfg.Name)
	var errs []error
	for name, value := range map[string]any{
		sottoVarPorts:        ports,
		sottoVarPortCount:    uint32(len(cfg.Ports)),
		sottoVarListenerPort: htons(listenerPort),
		sottoVarPrefix4:      prefixes.Base4,
		sottoVarPrefix6:      prefixes.Base6,
		sottoVarSlotCount:    k.count,
		sottoVarQuotaMax:     cfg.quota(),
		sottoVarRecounts:     boolByte(k.refs.Supported()),
		sottoVarVirtualTag:   uint16(mark>>16) | 1,
		sottoVarAnswerTag:    k.tag,
		sottoVarLingerNs:     uint64(cfg.Linger),
		sottoVarHasSetRetval: boolByte(feature.HasSetRetval()),
		sottoVarGuarded:      boolByte(cfg.Guard != GuardOff),
		sottoVarGuardsHost:   boolByte(cfg.GuardHost),

		sottoVarRedirectsLocal: boolByte(cfg.LocalResolvers == LocalRedirect),
		sottoVarOneCommand:     boolByte(cfg.Ephemeral),
		sottoVarAttributes:     boolByte(cfg.Attribution),
		sottoVarKnowsCurrent:   boolByte(cfg.Attribution && knowsCurrent()),
		sottoVarKnowsSender:    boolByte(!cfg.Ephemeral && cfg.Attribution && feature.KnowsSender()),
		sottoVarTraces:         boolByte(!cfg.Ephemeral),
		sottoVarHomeCookie:     cookie,
		sottoVarBackMark:       mark,
		sottoVarPrefix4Mask:    prefixes.Mask4,
		sottoVarPrefix6Mask:    prefixes.Mask6,
		sottoVarVethHost:       [6]byte(network.MACHost),
		sottoVarVethInner:      [6]byte(network.MACInner),
		sottoVarOpenAfterNs:    uint64(cfg.OpenAfter),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			errs = append(errs, fmt.Errorf("set %s in the BPF programs: %w", name, err))
		}
	}
	return spec, errors.Join(errs...)
}

// packetMark returns what the guard's programs of an instance mark packets with, which is not 0.
// All processes of the instance have the same: while one takes over from another, a packet that
// a program of the one has marked passes a program of the other.
func packetMark(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte("sotto mark " + name)) // never fails
	return h.Sum32() | 1
}

// listenerPort is the port of the listener on all virtual addresses.
const listenerPort = 53

// htons converts v to network byte order.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func prefixesOf(cfg *Config) references.Prefixes {
	base4, base6, mask6 := cfg.Prefix4.Addr().As4(), cfg.Prefix6.Addr().As16(), net.CIDRMask(cfg.Prefix6.Bits(), 128)
	p := references.Prefixes{
		Base4: binary.BigEndian.Uint32(base4[:]),
		Mask4: uint32(math.MaxUint32) << (32 - cfg.Prefix4.Bits()),
	}
	for i := range p.Base6 {
		p.Base6[i] = binary.NativeEndian.Uint32(base6[4*i:])
		p.Mask6[i] = binary.NativeEndian.Uint32(mask6[4*i:])
	}
	return p
}

// boolByte converts b to the type that the programs use.
func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// fill initialises new maps: all slots are free, except those of reserved addresses. It
// writes the settings last, because maps without settings are incomplete and never adopted.
func (k *kernel) fill(cfg *Config) error {
	for idx := uint32(network.FirstSlot); idx < k.count-1; idx++ {
		if err := k.FreeSlots.Put(nil, idx); err != nil {
			return fmt.Errorf("fill the queue of free slots: %w", err)
		}
	}
	prefixes := prefixesOf(cfg)
	err := k.Settings.Put(uint32(0), sottoInstance{
		Layout: layoutVersion, SlotCount: k.count, Prefix4: prefixes.Base4, Prefix6: prefixes.Base6,
	})
	if err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// newGuard creates the guard from the instance's programs and maps. answer may be nil.
func (k *kernel) newGuard(cfg *Config, n *network.Network, groups []cgroup.Group, root string, answer *ebpf.Program) (*guard.Guard, error) {
	return guard.New(guard.Config{
		Mode: cfg.Guard, Log: cfg.Log, Name: cfg.Name, PinDir: k.dir, Network: n, Filters: cfg.Ephemeral,
		Programs: guard.Programs{
			OutIP: k.SottoGuardOutIp, InIP: k.SottoGuardInIp,
			OutFrame: k.SottoGuardOutFrame, InFrame: k.SottoGuardInFrame, Back: k.SottoGuardBack, Answer: answer,
		},
		Links: k.Links, Sealed: k.Sealed,
		WriteState: func(s guard.State) error {
			return k.Daemon.Put(uint32(0), sottoGuard{Alive: s.Alive, SealLevels: s.SealLevels, Veth: s.Veth, Drop: s.Drop})
		},
	}, groups, root)
}
