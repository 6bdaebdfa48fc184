// SPDX-License-Identifier: Apache-2.0

// Package feature finds out what the running kernel supports, and explains errors of a
// kernel that is too old.
package feature

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// need is a feature that the kernel must have.
type need struct {
	what  string
	since string
	probe func() error
}

// needs lists the needed features by age. The first missing one is named in an error.
func needs() []need {
	return []need{
		{"queue maps", "4.20", func() error { return features.HaveMapType(ebpf.Queue) }},
		{"socket storage", "5.2", func() error { return features.HaveMapType(ebpf.SkStorage) }},
		{"recvmsg hook", "5.2", attachProbe(ebpf.AttachCGroupUDP4Recvmsg)},
		{"bounded loops in BPF", "5.3", features.HaveBoundedLoops},
		{"cgroup identity in socket hooks", "5.7", helperProbe(asm.FnGetCurrentAncestorCgroupId)},
		{"getpeername hook", "5.8", attachProbe(ebpf.AttachCgroupInet4GetPeername)},
		{"socket storage in socket hooks", "5.8", helperProbe(asm.FnSkStorageGet)},
		{"sock_release hook", "5.9", releaseProbe},
	}
}

// passProgram loads a program for a hook that lets everything through.
func passProgram(t ebpf.ProgramType, hook ebpf.AttachType) error {
	return loads(&ebpf.ProgramSpec{
		Type: t, AttachType: hook, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
}

// loads loads a program and closes it.
func loads(spec *ebpf.ProgramSpec) error {
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return err
	}
	return p.Close()
}

func attachProbe(hook ebpf.AttachType) func() error {
	return func() error { return passProgram(ebpf.CGroupSockAddr, hook) }
}

func releaseProbe() error { return passProgram(ebpf.CGroupSock, ebpf.AttachCgroupInetSockRelease) }

func helperProbe(fn asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(ebpf.CGroupSockAddr, fn) }
}

// HasSetRetval reports whether a hook can choose the errno that a client receives (Linux 5.18). It
// loads a program that does: since 7.2 the verifier checks that the argument is an errno, and
// refuses the program by which package features probes, which sets none (cilium/ebpf#2099).
func HasSetRetval() bool {
	return loads(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, -int32(unix.ENOBUFS)), asm.FnSetRetval.Call(),
			asm.Mov.Imm(asm.R0, 0), asm.Return(),
		},
	}) == nil
}

// KnowsCurrent reports whether a program that sees the packets of a socket can read which
// process sends them (Linux 6.10).
func KnowsCurrent() bool {
	return features.HaveProgramHelper(ebpf.CGroupSKB, asm.FnGetCurrentPidTgid) == nil
}

// KnowsSender reports whether such a program, and one on an interface, can also read the process's
// name and user (Linux 6.16).
func KnowsSender() bool {
	for _, p := range []ebpf.ProgramType{ebpf.CGroupSKB, ebpf.SchedCLS} {
		for _, fn := range []asm.BuiltinFunc{asm.FnGetCurrentPidTgid, asm.FnGetCurrentUidGid, asm.FnGetCurrentComm, asm.FnGetCurrentCgroupId} {
			if features.HaveProgramHelper(p, fn) != nil {
				return false
			}
		}
	}
	return true
}

// Explain adds the cause to an error of loading or attaching a program: missing privileges,
// or the first feature that the kernel does not have.
func Explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w; it needs root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN), in a container --privileged", err)
	}
	if cause := Missing(); cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// Missing returns an error that names the first needed feature that the kernel does not have,
// or nil. The process must have the capabilities to load programs.
func Missing() error {
	// Before Linux 5.11 maps and programs count against the limit, also those of other processes of
	// the user. Without the right to raise it the probes may still fit.
	_ = rlimit.RemoveMemlock()
	for _, n := range needs() {
		if n.probe() != nil {
			return missing(n, Release())
		}
	}
	return nil
}

// missing returns the error for a missing feature.
func missing(n need, release string) error {
	return fmt.Errorf("this kernel (%s) has no %s: Linux %s or newer with CONFIG_CGROUP_BPF is needed", release, n.what, n.since)
}

// Release returns the release of the kernel, as uname(1) shows it.
func Release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	release, _, _ := strings.Cut(string(u.Release[:]), "\x00")
	return release
}
