// SPDX-License-Identifier: Apache-2.0

// Package references counts the sockets that hold each slot, by a walk over all sockets in
// the kernel (bpf/references.c). The kernel can close a socket without running the release
// hook, so the reference counts of slots are only an upper limit.
//
// The walk needs a kernel before Linux 7.0 with BTF (CONFIG_DEBUG_INFO_BTF) whose security policy
// permits the program; see [ErrUnsupported].
package references

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sotto/intercept/feature"
)

// The clang is pinned because another version makes another object. Both include paths are
// named because only their location depends on the architecture of the machine.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package references -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" references ../../bpf/references.c

// kernelBTF is where a kernel provides its own BTF.
const kernelBTF = "/sys/kernel/btf/vmlinux"

// ErrUnsupported is returned where the kernel cannot walk over the storage of sockets: it has
// no BTF, a security policy (lockdown, an LSM) refuses the program, or the walk could crash it.
var ErrUnsupported = errors.New("this kernel cannot walk over the storage of sockets")

// Prefixes are the networks of the virtual addresses, as the BPF programs have them: IPv4 in
// host byte order, IPv6 in words in network byte order.
type Prefixes struct {
	Base4, Mask4 uint32
	Base6, Mask6 [4]uint32
}

// Counter counts references. Its program is loaded when it is first used, because an
// instance that seals a short command never needs it. It is not safe for concurrent use.
type Counter struct {
	prefixes Prefixes
	slots    uint32
	loaded   *objects
	refused  error // of the first attempt to load, if the kernel does not support the walk
}

// New returns a counter for an instance with the given number of slots. The caller closes it.
func New(prefixes Prefixes, slots uint32) *Counter {
	return &Counter{prefixes: prefixes, slots: slots}
}

// objects are the programs and maps of the object file that are used.
type objects struct {
	Walk    *ebpf.Program `ebpf:"sotto_count_references"`
	Counted *ebpf.Map     `ebpf:"counted"`
}

// Supported reports whether the kernel has BTF, survives the walk, and has not refused the
// program so far.
func (c *Counter) Supported() bool { return c.refused == nil && unsupported(feature.Release()) == nil }

// unsupported returns why a kernel with a release cannot walk, or nil.
func unsupported(release string) error {
	if Crashes(release) {
		return fmt.Errorf("%w: a socket that is closed meanwhile crashes it (since Linux 7.0)", ErrUnsupported)
	}
	if _, err := os.Stat(kernelBTF); err != nil {
		return fmt.Errorf("%w: it has no BTF (CONFIG_DEBUG_INFO_BTF)", ErrUnsupported)
	}
	return nil
}

// Crashes reports whether a kernel dereferences a null pointer if a socket is closed during the
// walk. Since Linux 7.0 bpf_selem_unlink_nofail (kernel/bpf/bpf_local_storage.c) clears the
// pointer that __bpf_sk_storage_map_seq_show (net/core/bpf_sk_storage.c) reads a second time. No
// release is known that has a correction.
func Crashes(release string) bool {
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return err != nil || major >= 7
}

// Load loads the program. Otherwise the first Count does. It returns [ErrUnsupported] if the
// kernel cannot run it, which later calls return at once.
func (c *Counter) Load() error {
	switch {
	case c.loaded != nil:
		return nil
	case c.refused != nil:
		return c.refused
	}
	if c.refused = unsupported(feature.Release()); c.refused != nil {
		return c.refused
	}
	err := c.load()
	// The programs of the instance were loaded with the same privileges.
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		c.refused = fmt.Errorf("%w: a security policy such as lockdown refuses it: %w", ErrUnsupported, err)
		return c.refused
	}
	return err
}

func (c *Counter) load() error {
	spec, err := loadReferences()
	if err != nil {
		return fmt.Errorf("read the BPF program that counts references: %w", err)
	}
	spec.Maps[referencesMapCounted].MaxEntries = c.slots
	for name, value := range map[string]any{
		referencesVarPrefix4:     c.prefixes.Base4,
		referencesVarPrefix6:     c.prefixes.Base6,
		referencesVarPrefix4Mask: c.prefixes.Mask4,
		referencesVarPrefix6Mask: c.prefixes.Mask6,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s in the BPF program that counts references: %w", name, err)
		}
	}
	var o objects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return fmt.Errorf("load the BPF program that counts references: %w", err)
	}
	c.loaded = &o
	return nil
}

// Count returns, for each slot, the number of sockets in all network namespaces that hold
// it: those with an entry for it in the socket storage connected or replaced. Only sockets
// that have an entry in connected have one in replaced. peers is the number of sockets that
// are now connected to a virtual address.
func (c *Counter) Count(connected, replaced *ebpf.Map) (holders []uint32, peers uint32, err error) {
	if err := c.Load(); err != nil {
		return nil, 0, err
	}
	counts, keys := make([]uint32, c.slots), make([]uint32, c.slots)
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := c.loaded.Counted.BatchUpdate(keys, counts, nil); err != nil {
		return nil, 0, fmt.Errorf("count references: %w", err)
	}
	err = c.walk(connected)
	if err == nil {
		err = c.loaded.Counted.Lookup(uint32(0), &peers)
	}
	if err == nil {
		err = c.walk(replaced)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("count references: %w", err)
	}
	var cursor ebpf.MapBatchCursor
	if _, err := c.loaded.Counted.BatchLookup(&cursor, keys, counts, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, 0, fmt.Errorf("read the counted references: %w", err)
	}
	return counts, peers, nil
}

// walk runs the program once for each socket with an entry in storage.
func (c *Counter) walk(storage *ebpf.Map) error {
	l, err := link.AttachIter(link.IterOptions{Program: c.loaded.Walk, Map: storage})
	if err != nil {
		return err
	}
	defer l.Close()
	run, err := l.Open()
	if err != nil {
		return err
	}
	defer run.Close()
	// The program outputs nothing. A second read continues a walk that the kernel interrupted
	// (EAGAIN after a million sockets), and is an error.
	_, err = io.Copy(io.Discard, run)
	return err
}

// Close releases the program and map.
func (c *Counter) Close() error {
	if c.loaded == nil {
		return nil
	}
	o := c.loaded
	c.loaded = nil
	return errors.Join(o.Walk.Close(), o.Counted.Close())
}
