// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// emptyWait bounds the wait for killed processes to leave their cgroup. They are
// gone within milliseconds, unless the kernel holds them (a dead NFS server).
const emptyWait = 5 * time.Second

// Cgroup is a cgroup that Sotto made. Its methods are not for concurrent use, but
// for Kill.
type Cgroup struct {
	group
	dir *os.File
}

// maxSameName bounds how many cgroups of one name NewCommandCgroup gets out of the way
// of. Each is a leftover, or of a process with the same ID in another PID namespace.
const maxSameName = 100

// NewCommandCgroup makes the cgroup of one command, for a process of the cgroup own. Its
// name is derived from name. Only root can move processes out of it: it is below the
// deepest cgroup on the way to own for which [RootOwned] holds. The caller closes it.
func NewCommandCgroup(own, name string) (*Cgroup, error) {
	parent, err := RootOwned(own)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		unique := name
		if n > 1 {
			unique = fmt.Sprintf("%s-%d", name, n)
		}
		c, err := NewCgroup(parent, unique)
		if n == maxSameName || !errors.Is(err, fs.ErrExist) {
			return c, err
		}
	}
}

// NewCgroup makes a cgroup below the directory parent. The caller closes it.
func NewCgroup(parent, name string) (*Cgroup, error) {
	path := filepath.Join(parent, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("make cgroup: %w; it needs root and a writable cgroup2", err)
		}
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open cgroup: %w", err), os.Remove(path))
	}
	id, err := cgroupID(path)
	if err != nil {
		return nil, errors.Join(err, dir.Close(), os.Remove(path))
	}
	return &Cgroup{group: group{path, id}, dir: dir}, nil
}

// Path returns the cgroup's directory.
func (c *Cgroup) Path() string { return c.group.Path }

// ID returns the cgroup's number, as [Origin] has it.
func (c *Cgroup) ID() uint64 { return c.group.ID }

// FD returns a descriptor of the directory, for clone's CLONE_INTO_CGROUP. It is
// good until Close.
func (c *Cgroup) FD() int { return int(c.dir.Fd()) }

// Kill ends every process in the cgroup and below, and waits until they are gone.
func (c *Cgroup) Kill() error { return killCgroup(c.group.Path) }

// Close removes the cgroup, which must be empty by now, or about to be, and all
// below it.
func (c *Cgroup) Close() error {
	return errors.Join(c.dir.Close(), removeCgroup(c.group.Path))
}

// killCgroup ends what runs in a cgroup of Sotto's own.
func killCgroup(dir string) error {
	// 5.14 has a file for it, which no fork outruns. Not os.WriteFile: it asks to make
	// what is not there, which is refused for another reason.
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write([]byte("1"))
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kill cgroup %s: %w", dir, err)
	}
	end := time.Now().Add(emptyWait)
	for {
		pids, err := procsBelow(dir)
		switch {
		case err != nil:
			return fmt.Errorf("kill cgroup %s: %w", dir, err)
		case len(pids) == 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("kill cgroup %s: processes %v do not end", dir, pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: it just went
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// below returns a cgroup's directory and all below it, children after parents.
// What goes away meanwhile is left out.
func below(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

func procsBelow(dir string) ([]int, error) {
	dirs, err := below(dir)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, d := range dirs {
		pids, err := readProcs(d)
		// EOPNOTSUPP: a threaded cgroup, whose processes its parent lists.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, err
		}
		all = append(all, pids...)
	}
	return all, nil
}

// removeCgroup removes a cgroup and those below it. A process that just ended
// keeps its cgroup busy for a moment.
func removeCgroup(dir string) error {
	end := time.Now().Add(emptyWait)
	for {
		err := removeTree(dir)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func removeTree(dir string) error {
	dirs, err := below(dir)
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}
