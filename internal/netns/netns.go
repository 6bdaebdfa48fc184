// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotNamespace is returned for a path that is no network namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// NS is an open network namespace. It keeps the namespace alive until Close,
// whatever becomes of its name. All methods may be called concurrently, Close
// excepted.
type NS struct {
	file *os.File
	id   ID
}

// ID tells one namespace from another for as long as both live.
type ID struct{ Dev, Ino uint64 }

// Current returns the namespace of the calling thread. Unless that thread is
// locked (as it is inside Do) this is the namespace the process started in.
func Current() (*NS, error) {
	// thread-self, not self: the latter is the main thread's.
	return OpenPath("/proc/thread-self/ns/net")
}

// OpenPath opens the namespace at path: a name's file, or a link such as
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

// fromFile checks that f is a network namespace and takes it over.
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
		return nil, fmt.Errorf("ask its type: %w", err)
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

// NewAnonymous makes a namespace that has no name. It is gone with its last
// holder, so a crash leaves nothing behind.
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

// Fd returns the file descriptor that holds the namespace. It belongs to n and
// is closed with it.
func (n *NS) Fd() int { return int(n.file.Fd()) }

// Netlink opens a route netlink handle inside the namespace. The caller closes
// it; it stays usable after n is closed and keeps the namespace alive.
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

// Close lets go of the namespace; the kernel ends it when nobody else holds it.
func (n *NS) Close() error { return n.file.Close() }
