// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup of the v2 hierarchy that the lab made.
type Cgroup struct {
	Path string // its directory
	ID   uint64 // what bpf_get_current_cgroup_id says inside it

	dir *os.File
}

// Cgroup makes a cgroup below the root of the v2 hierarchy. When the lab is
// closed, processes still in it are killed and it is removed.
func (l *Lab) Cgroup(name string) (*Cgroup, error) {
	root, err := CgroupRoot()
	if err != nil {
		return nil, err
	}
	return l.cgroup(filepath.Join(root, fmt.Sprintf("%s-%d-%s", l.name, counter.Add(1), name)))
}

// Below makes a cgroup inside another one of the lab.
func (l *Lab) Below(parent *Cgroup, name string) (*Cgroup, error) {
	return l.cgroup(filepath.Join(parent.Path, name))
}

func (l *Lab) cgroup(path string) (*Cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	l.onClose(func() error { return removeCgroup(path) })
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	l.onClose(dir.Close)
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat cgroup %s: %w", path, err)
	}
	return &Cgroup{Path: path, ID: st.Ino, dir: dir}, nil
}

// Fd returns a descriptor of the directory, open as long as the lab.
func (c *Cgroup) Fd() int { return int(c.dir.Fd()) }

// CgroupRoot returns where the v2 hierarchy is mounted. The error is
// fs.ErrNotExist when it is not.
func CgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		// ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS…] - TYPE SOURCE OPTIONS
		before, after, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", fmt.Errorf("find cgroup2 in /proc/self/mountinfo: %w", fs.ErrNotExist)
}

// removeCgroup ends what runs in a cgroup of a lab and removes it with all
// below it.
func removeCgroup(path string) error {
	// Absent before Linux 5.14; then what was left running keeps the cgroup and
	// the removal below says so.
	_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroup(filepath.Join(path, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	// A killed process leaves its cgroup when it is reaped, a moment later.
	for range 200 {
		if err = unix.Rmdir(path); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup %s: %w", path, err)
}
