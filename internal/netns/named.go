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

// mount does Mount's work in the mount namespace of the calling thread.
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
	case errors.Is(err, ErrNotNamespace): // left by a crash, or mounted elsewhere
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

// Delete takes the name away, however many mounts are stacked on it, and with
// it the namespace if nobody else holds it; also in the mount namespace of PID 1 if that
// has the same /run. No such name is no error.
func Delete(name string) error {
	_, err := InHome(homeDir, func() error { return deleteHere(name, false) })
	return err
}

// DeleteFromHere is Delete for a process that may not enter the mount namespace of PID 1
// any more, and has another one for itself ([Elsewhere]). Removing the name's file takes
// the mounts on it along in all others. The error is EBUSY where one stays here that
// cannot be reached: systemd before 254 moves its mounts over a copy of the host's.
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

// remove does Delete's work under the lock.
func remove(name string) error {
	if err := unmountAll(Path(name)); err != nil {
		return err
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace name: %w", err)
	}
	return nil
}

// removeCovered does remove's work where a mount on Dir hides another on the name. Dir is
// mounted on itself, so a name is mounted twice: on the visible directory and, as both are
// of one peer group, on the one below. Unmounting one unmounts both, but not in a mount
// namespace that only receives mounts. There nothing else needs what is on Dir.
func removeCovered(name string) error {
	// It stays writable when the one below is not, also when it is no longer mounted.
	dir, err := os.Open(Dir)
	if err != nil {
		return fmt.Errorf("remove namespace name: %w", err)
	}
	defer dir.Close()
	err = unix.EBUSY
	for n := 0; n < maxStacked && errors.Is(err, unix.EBUSY); n++ {
		if unix.Unmount(Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
			break // nothing is on it any more
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

// unmountAll unmounts what is stacked on path.
func unmountAll(path string) error {
	for range maxStacked {
		// Detached, as iproute2 does it: a process inside must not keep the name.
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

// lockDir makes Dir and locks it as iproute2 does.
func lockDir() (unlock func(), err error) {
	switch err := os.Mkdir(Dir, 0o755); {
	case err == nil:
		err = os.Chmod(Dir, 0o755) // whatever the umask: it is everybody's to list
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
	return func() { _ = dir.Close() }, nil // closing is unlocking; the directory holds no data
}

// shareDir makes Dir a shared mount point, as iproute2 does. Without that, a namespace
// deleted here would stay alive in every mount namespace that was copied from this one.
// The caller has Dir locked, so that two programs do not stack mounts on it.
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
