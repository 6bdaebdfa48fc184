// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OfSocket opens the namespace of a socket (SIOCGSKNS, Linux 4.10). It needs CAP_NET_ADMIN.
func OfSocket(socket syscall.Conn) (*NS, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	// Not Fd, which could make the socket blocking, also in a process that shares it.
	if cerr := raw.Control(func(s uintptr) { fd, err = unix.IoctlRetInt(int(s), unix.SIOCGSKNS) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("find the network namespace of a socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "net")
	ns, err := fromFile(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return ns, nil
}
