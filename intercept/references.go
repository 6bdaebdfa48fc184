// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"

	"sotto/bpf"
)

// references counts the sockets that hold each slot; see bpf/references.c. Its program is
// loaded when it is first needed: a command that ends within seconds never needs it.
type references struct {
	cfg    *Config
	count  uint32 // slots
	loaded *referenceObjects
}

// referenceObjects is what is used of the object.
type referenceObjects struct {
	Walk    *ebpf.Program `ebpf:"sotto_count_references"`
	Counted *ebpf.Map     `ebpf:"counted"`
}

// kernelBTF is where a kernel that describes itself does so (CONFIG_DEBUG_INFO_BTF).
const kernelBTF = "/sys/kernel/btf/vmlinux"

// canCountReferences reports whether this kernel can walk over the storage of sockets.
func canCountReferences() bool {
	_, err := os.Stat(kernelBTF)
	return err == nil
}

func (r *references) load() error {
	if r.loaded != nil {
		return nil
	}
	spec, err := bpf.LoadReferences()
	if err != nil {
		return fmt.Errorf("read the BPF program that counts references: %w", err)
	}
	spec.Maps[bpf.ReferencesMapCounted].MaxEntries = r.count
	for name, value := range map[string]any{
		bpf.ReferencesVarPrefix4:     base4(r.cfg),
		bpf.ReferencesVarPrefix6:     base6(r.cfg),
		bpf.ReferencesVarPrefix4Mask: uint32(math.MaxUint32) << (32 - r.cfg.Prefix4.Bits()),
		bpf.ReferencesVarPrefix6Mask: mask6(r.cfg),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s in the BPF program that counts references: %w", name, err)
		}
	}
	var objects referenceObjects
	if err := spec.LoadAndAssign(&objects, nil); err != nil {
		return fmt.Errorf("load the BPF program that counts references: %w", explain(err))
	}
	r.loaded = &objects
	return nil
}

// tally counts, in all network namespaces, the holders of each slot: the sockets that keep
// it in connected, or in replaced, which only sockets have that have the other too. peers is
// how many of them are connected to a virtual address now.
func (r *references) tally(connected, replaced *ebpf.Map) (holders []uint32, peers uint32, err error) {
	if err := r.load(); err != nil {
		return nil, 0, err
	}
	counts, keys := make([]uint32, r.count), make([]uint32, r.count)
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := r.loaded.Counted.BatchUpdate(keys, counts, nil); err != nil {
		return nil, 0, fmt.Errorf("count references: %w", err)
	}
	err = r.walk(connected)
	if err == nil {
		err = r.loaded.Counted.Lookup(uint32(0), &peers)
	}
	if err == nil {
		err = r.walk(replaced)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("count references: %w", err)
	}
	var cursor ebpf.MapBatchCursor
	if _, err := r.loaded.Counted.BatchLookup(&cursor, keys, counts, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, 0, fmt.Errorf("read the counted references: %w", err)
	}
	return counts, peers, nil
}

// walk runs the program once for each socket that keeps something in storage.
func (r *references) walk(storage *ebpf.Map) error {
	l, err := bpflink.AttachIter(bpflink.IterOptions{Program: r.loaded.Walk, Map: storage})
	if err != nil {
		return err
	}
	defer l.Close()
	run, err := l.Open()
	if err != nil {
		return err
	}
	defer run.Close()
	// The program writes nothing: a second read would be one of a walk that the kernel
	// broke off (EAGAIN after a million sockets), and is an error.
	_, err = io.Copy(io.Discard, run)
	return err
}

func (r *references) close() error {
	if r.loaded == nil {
		return nil
	}
	return errors.Join(r.loaded.Walk.Close(), r.loaded.Counted.Close())
}
