// SPDX-License-Identifier: Apache-2.0

// Package load loads a collection of BPF programs into the kernel, several at a time. The
// verifier takes most of the time that a seal needs to start, and checks the programs of
// privileged processes in parallel (bpf_check in kernel/bpf/verifier.c takes its lock only
// for others).
package load

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// Assign creates the maps of spec, except those in existing, loads the programs, and assigns
// all to the fields of to, like [ebpf.CollectionSpec.LoadAndAssign]. to then has descriptors of
// its own for the existing maps. If it fails it leaves nothing open, and to is not usable.
func Assign(to any, spec *ebpf.CollectionSpec, existing map[string]*ebpf.Map) (err error) {
	// The programs need all maps. A map is complete here, and frozen if it is read-only.
	without := *spec
	without.Programs = nil
	all, err := ebpf.NewCollectionWithOptions(&without, ebpf.CollectionOptions{MapReplacements: existing})
	if err != nil {
		return err
	}
	defer all.Close() // without what was assigned
	programs, err := loadPrograms(spec, all.Maps)
	all.Programs = programs
	if err != nil {
		return err
	}
	return all.Assign(to)
}

// loadPrograms loads the programs of spec in parallel. It returns those that were loaded also
// if others were not.
func loadPrograms(spec *ebpf.CollectionSpec, all map[string]*ebpf.Map) (map[string]*ebpf.Program, error) {
	// The longest first, so that none is left at the end.
	names := slices.SortedFunc(maps.Keys(spec.Programs), func(a, b string) int {
		return len(spec.Programs[b].Instructions) - len(spec.Programs[a].Instructions)
	})
	loaded := make([]*ebpf.Program, len(names))
	var g errgroup.Group
	for i, name := range names {
		g.Go(func() error {
			var err error
			loaded[i], err = loadProgram(spec, name, all)
			return err
		})
	}
	err := g.Wait() // the first one: where the kernel lacks a feature, most programs fail
	programs := make(map[string]*ebpf.Program, len(names))
	for i, name := range names {
		if loaded[i] != nil {
			programs[name] = loaded[i]
		}
	}
	return programs, err
}

// loadProgram loads one program of spec. It does not modify spec.
func loadProgram(spec *ebpf.CollectionSpec, name string, all map[string]*ebpf.Map) (*ebpf.Program, error) {
	one := *spec
	one.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	one.Variables = nil
	c, err := ebpf.NewCollectionWithOptions(&one, ebpf.CollectionOptions{MapReplacements: all})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p := c.DetachProgram(name)
	if p == nil {
		return nil, fmt.Errorf("program %s was not loaded", name)
	}
	return p, nil
}
