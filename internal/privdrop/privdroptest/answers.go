// SPDX-License-Identifier: Apache-2.0

// Package privdroptest determines which system calls are denied to a process.
package privdroptest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Unfiltered is the error of a call that no filter of the process denies.
const Unfiltered = unix.ENOSYS

// Answers makes each of the system calls and returns their errors by number. No call is
// executed: a filter of its own, with lower precedence than filters that deny, makes them
// fail with [Unfiltered]. Any call is therefore safe, and the result depends neither on
// the caller's privileges nor on the kernel configuration. The process does not change:
// the filter applies to one thread, which exits.
func Answers(calls []uint32) (map[uint32]unix.Errno, error) {
	answers := make(map[uint32]unix.Errno, len(calls))
	var err error
	onThread(func() {
		if err = block(calls); err != nil {
			return
		}
		for _, nr := range calls {
			const bad = ^uintptr(0) // invalid for every call, in case the filter does not work
			_, _, answers[nr] = unix.RawSyscall6(uintptr(nr), bad, bad, bad, bad, bad, bad)
		}
	})
	return answers, err
}

// onThread runs f on a thread that exits afterwards. It does not use the main thread,
// which cannot exit before the process.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThread(f)
			runtime.UnlockOSThread()
			return
		}
		f() // the thread stays locked and exits with its goroutine
	}()
	<-done
}

// block installs a filter on the calling thread that returns SECCOMP_RET_TRACE for the
// calls. Without a tracer they fail with ENOSYS. If several filters apply, the action with
// the highest precedence is taken; SECCOMP_RET_ERRNO precedes SECCOMP_RET_TRACE
// (seccomp(2)).
func block(calls []uint32) error {
	const offNumber = 0 // of struct seccomp_data
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offNumber, Size: 4}}
	for _, nr := range calls {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_TRACE})
	}
	code, err := bpf.Assemble(append(p, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	if err != nil {
		return fmt.Errorf("assemble seccomp filter: %w", err)
	}
	raw := make([]unix.SockFilter, 0, len(code))
	for _, i := range code {
		raw = append(raw, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(raw)
	if errno != 0 {
		return fmt.Errorf("install seccomp filter: %w", errno)
	}
	return nil
}
