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

// Dir is the directory of names, the same as that of ip-netns(8).
const Dir = "/run/netns"

// maxStacked limits how many mounts on one name Delete removes. Another program can
// stack mounts on a name, one for each of its starts.
const maxStacked = 64

// Path returns the path of a name's file.
func Path(name string) string { return filepath.Join(Dir, name) }

// Open opens the namespace called name. The error is fs.ErrNotExist if there is no such
// name, and ErrNotNamespace if no namespace is mounted on the name's file.
func Open(name string) (*NS, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return OpenPath(Path(name))
}

// New makes a namespace called name. The error is fs.ErrExist if a namespace has that name
// already. A stale file without a namespace is replaced.
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

// mount is Mount for the mount namespace of the calling thread.
func (n *NS) mount(name string) error {
	unlock, err := lockDir()
	if err != nil {
		return err
	}
	defer unlock()
	if err := shareDir(); err != nil {
		return err
	}
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
	case errors.Is(err, ErrNotNamespace): // a leftover, or mounted in another mount namespace
		if err := remove(name); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return n.mountFile(name, os.O_EXCL)
}

// mountFile creates the file of name, unless it exists and excl is 0, and bind-mounts the
// namespace on it.
func (n *NS) mountFile(name string, excl int) error {
	path := Path(name)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|excl, 0)
	if err != nil {
		return fmt.Errorf("name namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("name namespace: %w", err)
	}
	self := "/proc/self/fd/" + strconv.Itoa(n.Fd())
	if err := unix.Mount(self, path, "none", unix.MS_BIND, ""); err != nil {
		err = fmt.Errorf("mount namespace on %s: %w", path, err)
		if excl != 0 {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	}
	return nil
}

// Delete removes the name, with all mounts that are stacked on it, also in the mount
// namespace of PID 1 if that has the same Dir. The kernel removes the namespace if
// nothing else refers to it. It is not an error if the name does not exist.
func Delete(name string) error {
	_, err := InHome(homeDir(), func() error { return deleteHere(name, false) })
	return err
}

// DeleteFromHere is Delete for a process with a mount namespace of its own ([Elsewhere])
// that may not enter that of PID 1 any more. Removing the name's file removes the mounts on
// it in all other mount namespaces. The error is EBUSY if a mount in this one cannot be
// reached: systemd before 254 moves its mounts over a copy of the host's.
func DeleteFromHere(name string) error { return deleteHere(name, true) }

// deleteHere is Delete in the mount namespace of the calling thread.
func deleteHere(name string, own bool) error {
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
	err = remove(name)
	if own && errors.Is(err, unix.EBUSY) {
		err = removeCovered(name)
	}
	return err
}

// remove is deleteHere under the lock.
func remove(name string) error {
	if err := unmountAll(Path(name)); err != nil {
		return err
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace name: %w", err)
	}
	return nil
}

// removeCovered is remove for a name that is mounted a second time below a mount on Dir. Dir
// is mounted on itself, so a name is mounted twice: on the visible directory, and because
// both belong to one peer group, on the directory below. Unmounting one unmounts both, but
// not in a mount namespace that only receives mounts. There the mount on Dir is not needed
// otherwise.
func removeCovered(name string) error {
	// This directory is writable, also after it was unmounted; the one below may not be.
	dir, err := os.Open(Dir)
	if err != nil {
		return fmt.Errorf("remove namespace name: %w", err)
	}
	defer dir.Close()
	err = unix.EBUSY
	for n := 0; n < maxStacked && errors.Is(err, unix.EBUSY); n++ {
		if unix.Unmount(Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
			break // nothing is mounted on it any more
		}
		if err := unmountAll(Path(name)); err != nil {
			return err
		}
		err = unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace name %s: %w", Path(name), err)
	}
	return nil
}

// unmountAll unmounts all mounts that are stacked on path.
func unmountAll(path string) error {
	for range maxStacked {
		// MNT_DETACH, like iproute2: a process that uses the mount must not keep the name.
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // not, or no longer, a mount
		}
		if err != nil {
			return fmt.Errorf("unmount namespace %s: %w", path, err)
		}
	}
	return nil
}

// Names returns all names, including those of stale files.
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

// checkName returns an error if a name is not that of a file in Dir.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("namespace name %q: %w", name, fs.ErrInvalid)
	}
	return nil
}

// lockDir makes Dir and locks it, like iproute2.
func lockDir() (unlock func(), err error) {
	switch err := os.Mkdir(Dir, 0o755); {
	case err == nil:
		err = os.Chmod(Dir, 0o755) // regardless of the umask: all users may list it
		if err != nil {
			return nil, fmt.Errorf("make directory for namespaces: %w", err)
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("make directory for namespaces: %w", err)
	}
	dir, err := os.Open(Dir)
	if err != nil {
		return nil, fmt.Errorf("lock directory of namespaces: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", Dir, err), dir.Close())
	}
	return func() { _ = dir.Close() }, nil // closing unlocks it
}

// shareDir makes Dir a shared mount point, like iproute2. Otherwise a name that is deleted
// here would stay in all mount namespaces that were copied from this one. The caller holds
// the lock on Dir, so that two programs do not stack mounts on it.
func shareDir() error {
	err := unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", Dir, err)
	}
	return nil
}
