// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"errors"
	"maps"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
)

// forkHolder forks: the child has every descriptor of this process and nothing of the Go
// runtime, so that it may only make system calls. It sends what it is asked to.
func forkHolder(s clienttest.Sockets) (*heldChild, error) {
	var commands, results [2]int
	if err := errors.Join(unix.Pipe2(commands[:], unix.O_CLOEXEC), unix.Pipe2(results[:], unix.O_CLOEXEC)); err != nil {
		return nil, err
	}
	order := new([childOrder]byte)
	pid, no := rawFork(uintptr(commands[0]), uintptr(results[1]), order)
	_, _ = unix.Close(commands[0]), unix.Close(results[1])
	if no != 0 {
		return nil, no
	}
	return &heldChild{
		pid: int(pid), fds: maps.Clone(s),
		commands: os.NewFile(uintptr(commands[1]), "commands"), results: os.NewFile(uintptr(results[0]), "results"),
	}, nil
}

// rawFork returns in the parent only. The child obeys one order after another until it is
// asked to exit, its parent exits, or a read fails.
//
//go:norace
//go:nosplit
func rawFork(commands, results uintptr, order *[childOrder]byte) (uintptr, syscall.Errno) {
	pid, _, no := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if no != 0 || pid != 0 {
		return pid, no
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	for {
		n, _, no := syscall.RawSyscall(unix.SYS_READ, commands, uintptr(unsafe.Pointer(order)), childOrder)
		fd := *(*int32)(unsafe.Pointer(&order[0]))
		if no != 0 || n != childOrder || fd < 0 {
			break
		}
		var to uintptr
		size := uintptr(*(*uint32)(unsafe.Pointer(&order[4])))
		if size > 0 {
			to = uintptr(unsafe.Pointer(&order[8]))
		}
		_, _, no = syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&order[36])), messageSize,
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, to, size)
		*(*uint32)(unsafe.Pointer(&order[0])) = uint32(no)
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, results, uintptr(unsafe.Pointer(order)), 4)
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
