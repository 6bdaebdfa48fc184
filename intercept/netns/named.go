// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where names live, as ip-netns(8) has it.
const Dir = "/run/netns"

// maxStacked bounds how many mounts on one name Delete takes off. Each failed
// start of a careless program can stack one; nobody stacks sixty-four.
const maxStacked = 64

// Path returns the file of a name.
func Path(name string) string { return filepath.Join(Dir, name) }

// Open opens the namespace called name. The error is fs.ErrNotExist when there
// is no such name and ErrNotNamespace when the file is a leftover with no
// namespace mounted on it.
func Open(name string) (*NS, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return OpenPath(Path(name))
}

// New makes a namespace called name. The error is fs.ErrExist when a namespace
// has that name already; a stale file without one is replaced.
func New(name string) (*NS, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	ns, err := NewAnonymous()
	if err != nil {
		return nil, err
	}
	if err := ns.Mount(name); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// Mount gives the namespace a name. It is no error when it has that name
// already; it is fs.ErrExist when another namespace has it.
func (n *NS) Mount(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	unlock, err := lockDir()
	if err != nil {
		return err
	}
	defer unlock()

	switch old, err := Open(name); {
	case err == nil:
		same := old.ID() == n.ID()
		if err := old.Close(); err != nil {
			return fmt.Errorf("close namespace %s: %w", name, err)
		}
		if same {
			return nil
		}
		return fmt.Errorf("name namespace %s: %w", name, fs.ErrExist)
	case errors.Is(err, ErrNotNamespace): // left by a crash, or mounted elsewhere
		if err := remove(name); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return n.mountFile(name)
}

// mountFile creates the file of name and bind-mounts the namespace on it.
func (n *NS) mountFile(name string) error {
	path := Path(name)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("name namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("name namespace: %w", err)
	}
	self := "/proc/self/fd/" + strconv.Itoa(n.Fd())
	if err := unix.Mount(self, path, "none", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("mount namespace on %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Delete takes the name away, however many mounts are stacked on it, and with
// it the namespace if nobody else holds it. No such name is no error.
func Delete(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(Path(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lockDir()
	if err != nil {
		return err
	}
	defer unlock()
	return remove(name)
}

// remove does Delete's work under the lock.
func remove(name string) error {
	path := Path(name)
	for range maxStacked {
		// Detached, as iproute2 does it: a process inside must not keep the name.
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount
		}
		if err != nil {
			return fmt.Errorf("unmount namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace name: %w", err)
	}
	return nil
}

// Names returns every name, those without a namespace behind them included.
func Names() ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// checkName keeps a name inside Dir.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("namespace name %q: %w", name, fs.ErrInvalid)
	}
	return nil
}

// lockDir makes Dir what iproute2 makes it and locks it as iproute2 does, so
// that two programs preparing it at once do not stack mounts on each other.
//
// Dir is a shared mount point: without that, a namespace deleted here would
// stay alive in every mount namespace that was copied from this one.
func lockDir() (unlock func(), err error) {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for namespaces: %w", err)
	}
	dir, err := os.Open(Dir)
	if err != nil {
		return nil, fmt.Errorf("lock directory of namespaces: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", Dir, err), dir.Close())
	}
	err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %s a shared mount: %w", Dir, err), dir.Close())
	}
	return func() { _ = dir.Close() }, nil // closing is unlocking; the directory holds no data
}
