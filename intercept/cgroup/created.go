// SPDX-License-Identifier: Apache-2.0

package cgroup

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

// emptyWait limits the wait for killed processes to exit. They do within milliseconds,
// unless the kernel blocks them (a dead NFS server).
const emptyWait = 5 * time.Second

// Created is a cgroup that Sotto created. Its methods are not safe for concurrent use,
// except Kill.
type Created struct {
	group Group
	dir   *os.File
}

// maxSameName limits how many cgroups with the same base name CreateForCommand skips. Each
// is a leftover, or that of a process with the same PID in another PID namespace.
const maxSameName = 100

// CreateForCommand creates the cgroup of one command, for a process in the cgroup own. Its
// name is name, or name with a number appended if that exists. Only root can move
// processes out of it, because its parent is [RootOwned] of own. The caller closes it.
func CreateForCommand(own, name string) (*Created, error) {
	parent, err := RootOwned(own)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		unique := name
		if n > 1 {
			unique = fmt.Sprintf("%s-%d", name, n)
		}
		c, err := Create(parent, unique)
		if n == maxSameName || !errors.Is(err, fs.ErrExist) {
			return c, err
		}
	}
}

// Create creates a cgroup below the directory parent. The caller closes it.
func Create(parent, name string) (*Created, error) {
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
	id, err := ID(path)
	if err != nil {
		return nil, errors.Join(err, dir.Close(), os.Remove(path))
	}
	return &Created{group: Group{path, id}, dir: dir}, nil
}

// Path returns the cgroup's directory.
func (c *Created) Path() string { return c.group.Path }

// ID returns the cgroup's ID.
func (c *Created) ID() uint64 { return c.group.ID }

// FD returns a file descriptor of the directory, for clone's CLONE_INTO_CGROUP. It is
// valid until Close.
func (c *Created) FD() int { return int(c.dir.Fd()) }

// Kill kills all processes in the cgroup and below, and waits until they have exited.
func (c *Created) Kill() error { return Kill(c.group.Path) }

// Close removes the cgroup and all cgroups below it. Their processes must have exited, or
// be about to.
func (c *Created) Close() error {
	return errors.Join(c.dir.Close(), Remove(c.group.Path))
}

// Kill kills all processes in the cgroup dir and below, and waits until they have exited.
func Kill(dir string) error {
	// Since Linux 5.14 this file kills all at once, including processes that are just being
	// forked. os.WriteFile would try to create a missing file, which fails with another error.
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
		pids, err := Processes(dir)
		switch {
		case err != nil:
			return fmt.Errorf("kill cgroup %s: %w", dir, err)
		case len(pids) == 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("kill cgroup %s: processes %v do not exit", dir, pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: it has exited
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Below returns the directory of a cgroup and those of all cgroups below it, parents
// first. It skips cgroups that are removed meanwhile.
func Below(dir string) ([]string, error) {
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

// Processes returns the PIDs of the processes in the cgroup dir and below.
func Processes(dir string) ([]int, error) {
	dirs, err := Below(dir)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, d := range dirs {
		pids, err := ProcessesIn(d)
		// EOPNOTSUPP: a threaded cgroup, whose parent lists the processes.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, err
		}
		all = append(all, pids...)
	}
	return all, nil
}

// Remove removes the cgroup dir and those below it. It retries for a while, because a
// process that has just exited keeps its cgroup busy for a moment.
func Remove(dir string) error {
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
	dirs, err := Below(dir)
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
