// SPDX-License-Identifier: Apache-2.0

// Package otherstest attaches programs to cgroups as other software does, for tests.
package otherstest

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// Connect4 attaches a program that lets everything through to the hook connect4 of a cgroup,
// until the test ends.
func Connect4(t testing.TB, dir, name string) {
	t.Helper()
	attach(t, dir, name, ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect)
}

// Egress is [Connect4] for sent packets.
func Egress(t testing.TB, dir, name string) {
	t.Helper()
	attach(t, dir, name, ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress)
}

func attach(t testing.TB, dir, name string, typ ebpf.ProgramType, at ebpf.AttachType) {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil { // before Linux 5.11 programs count against it
		t.Fatal(err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: typ, AttachType: at, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: at, Program: p})
	if err != nil {
		t.Fatal(errors.Join(err, p.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
}
