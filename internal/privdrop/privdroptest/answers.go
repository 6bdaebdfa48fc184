// SPDX-License-Identifier: Apache-2.0

// Package privdroptest shows tests which system calls a process is refused.
package privdroptest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Unfiltered is the answer to a call that no filter of the process refuses.
const Unfiltered = unix.ENOSYS

// Answers tries each of the system calls, and returns their errors by number. None is
// carried out: a filter of its own, which yields to every filter that refuses, stops
// them with [Unfiltered]. So it may try any call, and neither the caller's privileges
// nor the kernel's configuration change an answer. The process stays as it was: the
// filter is one thread's, which exits.
func Answers(calls []uint32) (map[uint32]unix.Errno, error) {
	answers := make(map[uint32]unix.Errno, len(calls))
	var err error
	onThread(func() {
		if err = stop(calls); err != nil {
			return
		}
		for _, nr := range calls {
			const bad = ^uintptr(0) // should the filter fail, no call can do anything with it
			_, _, answers[nr] = unix.RawSyscall6(uintptr(nr), bad, bad, bad, bad, bad, bad)
		}
	})
	return answers, err
}

// onThread runs f on a thread that exits with it. The process's first one it does not
// take: that would stay, as the process's status.
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
		f() // the thread is never unlocked, and exits with its goroutine
	}()
	<-done
}

// stop installs a filter on the calling thread that stops the calls: for a tracer, and
// as there is none, they answer ENOSYS. Of several filters the most restrictive action
// is taken, and an errno is more so (seccomp(2)).
func stop(calls []uint32) error {
	const offNumber = 0 // of struct seccomp_data
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offNumber, Size: 4}}
	for _, nr := range calls {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_TRACE})
	}
	code, err := bpf.Assemble(append(p, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	if err != nil {
		return fmt.Errorf("assemble the filter: %w", err)
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
		return fmt.Errorf("install the filter: %w", errno)
	}
	return nil
}
