// SPDX-License-Identifier: Apache-2.0

// Package references counts the sockets that hold each slot, by a walk over all sockets in
// the kernel (bpf/references.c). The kernel can close a socket without running the release
// hook, so the reference counts of slots are only an upper limit.
//
// The walk needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF); see [Supported].
package references

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"sotto/intercept/feature"
)

// The clang is pinned because another version makes another object. Both include paths are
// named because only their location depends on the architecture of the machine.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -go-package references -cflags "-O2 -mcpu=v2 -Wall -Wextra -Werror -Wno-unused-parameter -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" references ../../bpf/references.c

// kernelBTF is where a kernel provides its own BTF.
const kernelBTF = "/sys/kernel/btf/vmlinux"

// Supported reports whether this kernel can walk over the storage of sockets.
func Supported() bool {
	_, err := os.Stat(kernelBTF)
	return err == nil
}

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

func (c *Counter) load() error {
	if c.loaded != nil {
		return nil
	}
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
		return fmt.Errorf("load the BPF program that counts references: %w", feature.Explain(err))
	}
	c.loaded = &o
	return nil
}

// Count returns, for each slot, the number of sockets in all network namespaces that hold
// it: those with an entry for it in the socket storage connected or replaced. Only sockets
// that have an entry in connected have one in replaced. peers is the number of sockets that
// are now connected to a virtual address.
func (c *Counter) Count(connected, replaced *ebpf.Map) (holders []uint32, peers uint32, err error) {
	if err := c.load(); err != nil {
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
	return errors.Join(c.loaded.Walk.Close(), c.loaded.Counted.Close())
}
