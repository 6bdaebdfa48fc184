// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// fileidKernfs is FILEID_KERNFS of linux/exportfs.h: a file handle that contains only the
// cgroup ID.
const fileidKernfs = 0xfe

// Paths maps cgroup IDs to paths. Directories of cgroup2 are never renamed and IDs never
// reused, so a path found once stays correct, also when its cgroup is removed. All methods
// may be called concurrently.
type Paths struct {
	root string
	dir  *os.File // the root of the hierarchy

	mu     sync.RWMutex
	paths  map[uint64]string
	closed bool
}

// NewPaths opens the hierarchy at root. The caller closes it.
func NewPaths(root string) (*Paths, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open cgroup root: %w", err)
	}
	return &Paths{root: root, dir: dir, paths: make(map[uint64]string)}, nil
}

// Root returns the directory of the hierarchy.
func (p *Paths) Root() string { return p.root }

// Find returns the path of a cgroup below the root, "/" for the root itself, and "" for a
// cgroup that was removed before its path was first looked up.
func (p *Paths) Find(id uint64) string {
	if path, ok := p.Known(id); ok {
		return path
	}
	path, err := p.find(id)
	if err != nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paths[id] = path
	return path
}

// Known returns the path of a cgroup that was looked up before.
func (p *Paths) Known(id uint64) (path string, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	path, ok = p.paths[id]
	return path, ok
}

// Prune forgets the paths of removed cgroups that are not in use: no query can come from
// them. The remaining ones are at most as many as cgroups exist and are in use.
func (p *Paths) Prune(inUse func(id uint64) bool) {
	p.mu.RLock()
	ids := slices.Collect(maps.Keys(p.paths))
	p.mu.RUnlock()
	for _, id := range ids {
		if !inUse(id) && p.Removed(id) {
			p.mu.Lock()
			delete(p.paths, id)
			p.mu.Unlock()
		}
	}
}

// Removed reports whether the cgroup was removed. It may still have sockets: older kernels, such as
// 5.10, open it until the last one is closed.
func (p *Paths) Removed(id uint64) bool {
	fd, err := p.open(id)
	if err != nil {
		return err == unix.ESTALE
	}
	defer unix.Close(fd)
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return false
	}
	dir, deleted := strings.CutSuffix(dir, " (deleted)")
	if deleted || dir != p.root && !strings.HasPrefix(dir, p.root+"/") {
		return deleted
	}
	now, err := ID(dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && now != id
}

// open opens a cgroup by its ID.
func (p *Paths) open(id uint64) (int, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed { // a listener that drains may still look up paths
		return 0, unix.EBADF
	}
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	return unix.OpenByHandleAt(int(p.dir.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
}

func (p *Paths) find(id uint64) (string, error) {
	fd, err := p.open(id)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(p.root, strings.TrimSuffix(dir, " (deleted)"))
	if err != nil {
		return "", err
	}
	return filepath.Join("/", rel), nil
}

// Close closes the hierarchy. Paths that are known stay available.
func (p *Paths) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return p.dir.Close()
}

// IsWithin reports whether the workload with the given path is in or below one of the
// cgroups with the directories dirs. root is the directory of the hierarchy.
func IsWithin(root, path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		top, ok := strings.CutPrefix(dir, root)
		return ok && (top == "" || path == top || strings.HasPrefix(path, top+"/"))
	})
}
