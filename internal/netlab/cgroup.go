// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup v2 that the lab created.
type Cgroup struct {
	Path string // its directory
	ID   uint64 // as returned by bpf_get_current_cgroup_id

	dir *os.File
}

// Cgroup creates a cgroup below the root of the v2 hierarchy. Closing the lab kills the
// processes in it and removes it.
func (l *Lab) Cgroup(name string) (*Cgroup, error) {
	root, err := CgroupRoot()
	if err != nil {
		return nil, err
	}
	return l.cgroup(filepath.Join(root, fmt.Sprintf("%s-%d-%s", l.name, counter.Add(1), name)))
}

// Below creates a cgroup below another one of the lab.
func (l *Lab) Below(parent *Cgroup, name string) (*Cgroup, error) {
	return l.cgroup(filepath.Join(parent.Path, name))
}

func (l *Lab) cgroup(path string) (*Cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
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

// Fd returns a descriptor of the directory. It is valid until the lab is closed.
func (c *Cgroup) Fd() int { return int(c.dir.Fd()) }

// CgroupRoot returns the mount point of the v2 hierarchy, or fs.ErrNotExist if it is not
// mounted.
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

// removeCgroup kills the processes in a cgroup and removes it, including all cgroups below
// it.
func removeCgroup(path string) error {
	missing := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0) // before Linux 5.14
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
	// A killed process leaves its cgroup only when it is reaped.
	for range 200 {
		if missing != nil {
			killEach(path)
		}
		if err = unix.Rmdir(path); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup %s: %w", path, err)
}

// killEach kills the processes in a cgroup one by one. They may start others meanwhile: the caller
// repeats it.
func killEach(path string) {
	text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
