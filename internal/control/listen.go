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

// maxPath is the size of the path in a socket's address (unix(7)), with its final zero.
const maxPath = 108

// Listener is a control socket before [Listener.Serve] is called.
type Listener struct {
	l    net.Listener
	path string
}

// Listen creates the socket at path, and its directory if it does not exist: both for the owner
// only (0600, 0700), or, if group is the ID of a group other than root's, also for its members
// (0660, 0711). The caller calls [Listener.Serve] or [Listener.Close], which remove the socket.
func Listen(ctx context.Context, path string, group int) (*Listener, error) {
	if len(path) >= maxPath {
		return nil, fmt.Errorf("create the control socket %s: its path is longer than %d bytes: use a shorter one", path, maxPath-1)
	}
	if err := makeDir(filepath.Dir(path), group); err != nil {
		return nil, fmt.Errorf("create the directory of the control socket: %w", err)
	}
	if err := Remove(path); err != nil {
		return nil, fmt.Errorf("create the control socket: %w, or set control to another path", err)
	}
	// bind gives the path the mode of the socket's descriptor (unix_bind_bsd), so the path
	// never has another mode.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("create the control socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // see Close
	control := &Listener{l: l, path: path}
	if err := giveTo(path, group); err != nil {
		return nil, errors.Join(fmt.Errorf("give the control socket to its group: %w", err), control.Close())
	}
	return control, nil
}

// Close removes the socket, unless another process has replaced it.
func (l *Listener) Close() error {
	err := l.l.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	if rerr := Remove(l.path); !errors.Is(rerr, errInUse) {
		err = errors.Join(err, rerr)
	}
	return err
}

// errInUse means that a process listens on the socket.
var errInUse = errors.New("a running Sotto listens there")

// Remove removes the socket that a dead process left at path. It returns nil if there is
// none, and an error if a process listens on it.
func Remove(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket: move or remove it", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("%s: %w: stop it first", path, errInUse), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("check whether a process listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the control socket of an earlier process: %w", err)
	}
	return nil
}
