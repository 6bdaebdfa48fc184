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

// forkChild forks. The child inherits all descriptors of this process. It cannot use the Go
// runtime, only system calls. It sends messages on request.
func forkChild(s clienttest.Sockets) (*child, error) {
	var commands, results [2]int
	if err := errors.Join(unix.Pipe2(commands[:], unix.O_CLOEXEC), unix.Pipe2(results[:], unix.O_CLOEXEC)); err != nil {
		return nil, err
	}
	request := new([requestSize]byte)
	pid, no := rawFork(uintptr(commands[0]), uintptr(results[1]), request)
	_, _ = unix.Close(commands[0]), unix.Close(results[1])
	if no != 0 {
		return nil, no
	}
	return &child{
		pid: int(pid), fds: maps.Clone(s),
		commands: os.NewFile(uintptr(commands[1]), "commands"), results: os.NewFile(uintptr(results[0]), "results"),
	}, nil
}

// rawFork returns only in the parent. The child handles requests until one makes it exit, its
// parent exits, or a read fails.
//
//go:norace
//go:nosplit
func rawFork(commands, results uintptr, request *[requestSize]byte) (uintptr, syscall.Errno) {
	pid, _, no := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if no != 0 || pid != 0 {
		return pid, no
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	for {
		n, _, no := syscall.RawSyscall(unix.SYS_READ, commands, uintptr(unsafe.Pointer(request)), requestSize)
		fd := *(*int32)(unsafe.Pointer(&request[0]))
		if no != 0 || n != requestSize || fd < 0 {
			break
		}
		var to uintptr
		size := uintptr(*(*uint32)(unsafe.Pointer(&request[4])))
		if size > 0 {
			to = uintptr(unsafe.Pointer(&request[8]))
		}
		_, _, no = syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&request[36])), messageSize,
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, to, size)
		*(*uint32)(unsafe.Pointer(&request[0])) = uint32(no)
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, results, uintptr(unsafe.Pointer(request)), 4)
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
