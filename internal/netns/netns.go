// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotNamespace is returned for a path that is not a network namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// NS is an open network namespace. It keeps the namespace alive until Close, also if its
// name is removed. All methods except Close may be called concurrently.
type NS struct {
	file *os.File
	id   ID
}

// ID identifies a namespace while it exists.
type ID struct{ Dev, Ino uint64 }

// Current returns the namespace of the calling thread. Unless that thread is locked, as
// inside Do, this is the namespace that the process started in.
func Current() (*NS, error) {
	// self would be the main thread.
	return OpenPath("/proc/thread-self/ns/net")
}

// OpenPath opens the namespace at path: the file of a name, or a link such as
// /proc/PID/ns/net.
func OpenPath(path string) (*NS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	ns, err := fromFile(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open namespace %s: %w", path, err), f.Close())
	}
	return ns, nil
}

// fromFile checks that f is a network namespace. The result owns f.
func fromFile(f *os.File) (*NS, error) {
	fd := int(f.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, ErrNotNamespace
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return nil, fmt.Errorf("read its type: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return nil, ErrNotNamespace
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	return &NS{file: f, id: ID{Dev: uint64(st.Dev), Ino: st.Ino}}, nil
}

// NewAnonymous makes a namespace without a name. The kernel removes it when nothing refers
// to it any more, so a crash leaves nothing behind.
func NewAnonymous() (*NS, error) {
	var ns *NS
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		ns, err = Current()
		return err
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// ID returns the identity of the namespace.
func (n *NS) ID() ID { return n.id }

// Fd returns the file descriptor of the namespace. It is valid until Close.
func (n *NS) Fd() int { return int(n.file.Fd()) }

// Netlink opens a handle for route netlink inside the namespace. The caller closes it. It
// is usable after n is closed, and keeps the namespace alive.
func (n *NS) Netlink() (*netlink.Handle, error) {
	var h *netlink.Handle
	err := n.Do(func() error {
		var err error
		if h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open netlink handle: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Close closes the descriptor. The kernel removes the namespace if nothing else refers to it.
func (n *NS) Close() error { return n.file.Close() }
