// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// delegated lists what a user must own to manage a cgroup: the directory itself and these
// files in it; see cgroups(7), "Cgroups v2 delegation". cgroup.threads exists since Linux
// 4.14.
var delegated = []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}

// RootOwned returns the deepest cgroup that only root can manage, among the cgroup dir and
// those above it: it and all cgroups above it belong to root, and neither group nor others
// have write permission. If the root of the hierarchy is not such a cgroup, the error
// names the reason.
//
// Moving a process takes write permission on cgroup.procs of the destination and of the
// nearest common ancestor (cgroup_procs_write_permission in kernel/cgroup/cgroup.c). So
// only root can move a process out of a cgroup that root made below the one returned.
func RootOwned(dir string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	best, why, err := rootOwned(root, dir)
	if err == nil && best == "" {
		err = fmt.Errorf("find a cgroup that only root can manage: %s; try: chown root %[2]s %[2]s/cgroup.* && chmod go-w %[2]s %[2]s/cgroup.*", why, root)
	}
	return best, err
}

// Leavable returns why a user other than root may be able to move processes out of the
// cgroup dir or into it, or "" if only root can. The cgroup need not exist: only root can
// create it then, unless another user can manage one of those above it that exist.
func Leavable(dir string) (why string, err error) {
	root, err := Root()
	if err != nil || filepath.Clean(dir) == root {
		return "", err
	}
	// The nearest common ancestor with any cgroup outside is the parent, or above it.
	_, why, err = rootOwned(root, filepath.Dir(filepath.Clean(dir)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return why, err
}

// rootOwned walks from root to dir. It returns the last cgroup before the first one that
// another user can manage, and why that user can; "" if there is no such cgroup.
func rootOwned(root, dir string) (best, why string, err error) {
	rel, err := filepath.Rel(root, dir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", "", fmt.Errorf("cgroup %s: not below %s", dir, root)
	}
	at := root
	for name := range strings.SplitSeq("./"+rel, "/") {
		at = filepath.Join(at, name) // "." is root itself
		if why, err = writableByOthers(at); err != nil || why != "" {
			return best, why, err
		}
		best = at
	}
	return best, "", nil
}

// writableByOthers returns what permits users other than root to manage the cgroup dir, or
// "". The mode does not restrict an owner, who can change it.
func writableByOthers(dir string) (string, error) {
	for _, name := range delegated {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != "":
			continue
		case err != nil:
			return "", fmt.Errorf("check the owner of %s: %w", path, err)
		case st.Uid != 0:
			return fmt.Sprintf("%s belongs to user %d", path, st.Uid), nil
		case st.Mode&0o022 != 0:
			return fmt.Sprintf("%s is writable by group or others (mode %04o)", path, st.Mode&0o7777), nil
		}
	}
	return "", nil
}
