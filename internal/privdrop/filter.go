// SPDX-License-Identifier: Apache-2.0

package privdrop

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets of the system call number and the architecture in struct seccomp_data
// (seccomp(2)).
const (
	offNumber = 0
	offArch   = 4
)

// x32Bit marks the system calls of the x32 ABI, which also report AUDIT_ARCH_X86_64. A
// comparison of numbers alone would allow all of them.
const x32Bit = 0x40000000

// program returns a filter that denies the listed system calls with EPERM and allows all
// others. It is not an allowlist because the system calls that the Go runtime needs change
// with its version.
func program(arch uint32, deny []uint32) ([]bpf.RawInstruction, error) {
	const eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		// Other architectures have other numbers; Sotto makes no such calls.
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		bpf.RetConstant{Val: eperm},
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	if arch == unix.AUDIT_ARCH_X86_64 {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1}, bpf.RetConstant{Val: eperm})
	}
	for _, nr := range deny {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 1}, bpf.RetConstant{Val: eperm})
	}
	return bpf.Assemble(append(p, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
}

// archs maps the supported values of GOARCH to their audit architectures.
var archs = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// filter installs the program on all threads. It does nothing if the kernel lacks seccomp
// or if the architecture is not in archs; capabilities are dropped in any case.
func filter(deny []uint32) error {
	arch, ok := archs[runtime.GOARCH]
	if !ok {
		return nil
	}
	code, err := program(arch, deny)
	if err != nil {
		return fmt.Errorf("assemble seccomp filter: %w", err)
	}
	raw := make([]unix.SockFilter, 0, len(code))
	for _, i := range code {
		raw = append(raw, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(raw)
	switch {
	case errors.Is(errno, unix.ENOSYS), errors.Is(errno, unix.EINVAL): // CONFIG_SECCOMP_FILTER is not set
		return nil
	case errno != 0:
		return fmt.Errorf("install seccomp filter: %w", errno)
	case thread != 0: // TSYNC returns the ID of a thread that it could not synchronize
		return fmt.Errorf("install seccomp filter: thread %d has another filter", thread)
	}
	return nil
}

// Unused lists system calls that Sotto never makes after setup: those that execute
// programs, inspect other processes or change the kernel, and some with a history of
// vulnerabilities.
func Unused() []uint32 {
	return []uint32{
		unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
		unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG,
		unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
		unix.SYS_USERFAULTFD, unix.SYS_PERF_EVENT_OPEN,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
		unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
		unix.SYS_SETGROUPS, unix.SYS_SETFSUID, unix.SYS_SETFSGID,
		unix.SYS_MKNODAT, unix.SYS_FANOTIFY_INIT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_PERSONALITY, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
	}
}

// Kernel lists system calls that only package intercept needs: BPF, namespaces, mounts and
// cgroup file handles. `sotto serve` denies them.
func Kernel() []uint32 {
	return []uint32{
		unix.SYS_BPF, unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_OPEN_BY_HANDLE_AT,
		unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	}
}

// Mounts lists system calls that create or change mounts. With CAP_SYS_ADMIN they could
// make writable again what is mounted read-only for this process. Unmounting is not
// included: it is needed to remove the name of the network namespace.
func Mounts() []uint32 {
	return []uint32{
		unix.SYS_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
		unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK, unix.SYS_UNSHARE,
	}
}
