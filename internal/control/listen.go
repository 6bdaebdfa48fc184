// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is what fits into a socket's address (unix(7)), its final zero
// included.
const maxPath = 108

// Listener is a control socket that nobody is answered on yet.
type Listener struct {
	l    net.Listener
	path string
}

// Listen makes the socket at path, and its directory (0700) if there is none.
// The caller calls [Listener.Serve] or [Listener.Close], which take the socket
// away.
func Listen(ctx context.Context, path string) (*Listener, error) {
	if len(path) >= maxPath {
		return nil, fmt.Errorf("make the control socket %s: its path is longer than the %d bytes that a socket's may have: give it a shorter one", path, maxPath-1)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the control socket: %w", err)
	}
	if err := Remove(path); err != nil {
		return nil, fmt.Errorf("make the control socket: %w, or set control to another path", err)
	}
	// The mode that a socket's descriptor has when it is bound becomes that of
	// its name (unix_bind_bsd), so there is no moment with another.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // see Close
	return &Listener{l: l, path: path}, nil
}

// Close takes the socket away, unless another process has its name by now.
func (l *Listener) Close() error {
	err := l.l.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	if rerr := Remove(l.path); !errors.Is(rerr, errAlive) {
		err = errors.Join(err, rerr)
	}
	return err
}

// errAlive says that somebody listens on a socket.
var errAlive = errors.New("a Sotto that runs listens there")

// Remove takes away the socket that a dead process left at path. That there is
// none is no error; that somebody listens on it is one.
func Remove(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is no socket: move it away", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("%s: %w: stop it first", path, errAlive), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("see who listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take away what is left of a control socket: %w", err)
	}
	return nil
}
