// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// fileidKernfs is FILEID_KERNFS of linux/exportfs.h: a handle that is nothing but
// the cgroup's number.
const fileidKernfs = 0xfe

// workloads turns cgroup numbers into paths. A cgroup2 directory is never renamed
// and its number never given away, so what was found stays true, also when the
// cgroup is removed. For concurrent use.
type workloads struct {
	root string
	dir  *os.File // the root of the hierarchy

	mu     sync.RWMutex
	paths  map[uint64]string
	closed bool
}

// newWorkloads opens the hierarchy at root. The caller closes it.
func newWorkloads(root string) (*workloads, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open cgroup root: %w", err)
	}
	return &workloads{root: root, dir: dir, paths: make(map[uint64]string)}, nil
}

// path returns the path below the root, "/" for the root itself, and "" for a
// cgroup that was removed before its path was first looked up.
func (w *workloads) path(id uint64) string {
	w.mu.RLock()
	path, ok := w.paths[id]
	w.mu.RUnlock()
	if ok {
		return path
	}
	path, err := w.find(id)
	if err != nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paths[id] = path
	return path
}

// prune forgets the paths of cgroups that were removed and hold no slot: no query of theirs
// can come any more. The rest are no more than the cgroups of the machine, and the slots.
func (w *workloads) prune(holds func(id uint64) bool) {
	w.mu.RLock()
	ids := slices.Collect(maps.Keys(w.paths))
	w.mu.RUnlock()
	for _, id := range ids {
		if !holds(id) && w.gone(id) {
			w.mu.Lock()
			delete(w.paths, id)
			w.mu.Unlock()
		}
	}
}

// gone reports whether the cgroup was removed.
func (w *workloads) gone(id uint64) bool {
	fd, err := w.open(id)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err == unix.ESTALE
}

// open opens a cgroup by its number.
func (w *workloads) open(id uint64) (int, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed { // a listener that drains may still ask
		return 0, unix.EBADF
	}
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	return unix.OpenByHandleAt(int(w.dir.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
}

func (w *workloads) find(id uint64) (string, error) {
	fd, err := w.open(id)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(w.root, strings.TrimSuffix(dir, " (deleted)"))
	if err != nil {
		return "", err
	}
	return filepath.Join("/", rel), nil
}

// close lets go of the hierarchy. What was found stays known.
func (w *workloads) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return w.dir.Close()
}
