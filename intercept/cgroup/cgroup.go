// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sotto/internal/mountinfo"
)

// NotFoundError means that the whole hierarchy of cgroup2 is not visible to this process.
type NotFoundError struct{ Reason, Fix string }

func (e *NotFoundError) Error() string { return "find cgroup2: " + e.Reason + "; " + e.Fix }

var errNoCgroup2 = &NotFoundError{
	Reason: "it is not mounted here",
	Fix:    "try: mount -t cgroup2 none /sys/fs/cgroup/unified (in a container: mount the host's /sys/fs/cgroup there, and " + fixNamespace + ")",
}

// fixNamespace is what makes the whole hierarchy visible in a container.
const fixNamespace = "in Kubernetes: set hostPID: true and add the capabilities SYS_ADMIN and SYS_PTRACE; in Docker: start the container with --cgroupns=host"

// findRoot returns the mount point of the whole hierarchy: the last mount of cgroup2 that
// does not show only a part of it.
func findRoot(mounts []mountinfo.Mount) (string, error) {
	partial := ""
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i]
		switch {
		case m.Type != "cgroup2":
		case m.Root == "/":
			return m.Point, nil
		default:
			partial = m.Point
		}
	}
	if partial != "" {
		return "", errNamespace(partial)
	}
	return "", errNoCgroup2
}

// errNamespace is the error in a container that sees only its own part of the hierarchy.
func errNamespace(point string) error {
	return &NotFoundError{
		Reason: point + " shows only a part of the hierarchy, as in a container with its own cgroup namespace",
		Fix:    fixNamespace,
	}
}

// rootInode is the inode number of the hierarchy's real root: the first one of its kernfs.
// In a cgroup namespace "/" is another cgroup, with another inode number.
const rootInode = 1

// Root returns the directory where the whole cgroup2 hierarchy is mounted.
func Root() (string, error) {
	mounts, err := mountinfo.Read()
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	point, err := findRoot(mounts)
	if err != nil {
		return "", err
	}
	id, err := ID(point)
	if err != nil {
		return "", err
	}
	if id != rootInode {
		return "", errNamespace(point)
	}
	return point, nil
}

// Own returns the directory of the calling process's cgroup.
func Own() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path, err := readPath("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find own cgroup: %w", err)
	}
	if strings.HasPrefix(path, "/..") {
		return "", errNamespace(root)
	}
	return filepath.Join(root, path), nil
}

// Of returns the path of the cgroup of a process, below the root of the hierarchy.
func Of(pid int) (string, error) {
	path, err := readPath(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	return path, nil
}

// readPath returns the path in a file /proc/PID/cgroup.
func readPath(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return strings.TrimSuffix(path, " (deleted)"), nil
		}
	}
	return "", errNoCgroup2
}

// Find returns the directory of a cgroup that a user names by its directory, or by its
// path below the root of the hierarchy, as systemd-cgls and /proc/PID/cgroup show it. If it does
// not exist, the error is [fs.ErrNotExist], and the directory is the one that it would have.
func Find(path string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Clean(path)
	if dir != root && !strings.HasPrefix(dir, root+"/") {
		dir = filepath.Join(root, path)
	}
	if _, err := ID(dir); err != nil {
		return dir, err
	}
	return dir, nil
}

// ID returns the ID of the cgroup with the directory dir. It fails if dir is not a
// directory of cgroup2.
func ID(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("open cgroup %s: %w", dir, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("open cgroup %s: not a directory of cgroup2", dir)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("open cgroup %s: %w", dir, err)
	}
	return st.Ino, nil
}

// Group identifies a cgroup by its directory and ID. Records contain both, because the
// directory may have been removed and created again as another cgroup.
type Group struct {
	Path string `json:"path"`
	ID   uint64 `json:"id"`
}

// Groups looks up the cgroups with the directories dirs.
func Groups(dirs []string) ([]Group, error) {
	var out []Group
	for _, dir := range dirs {
		id, err := ID(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, Group{filepath.Clean(dir), id})
	}
	return out, nil
}

// Outermost returns the groups that are not in or below another one, each once.
func Outermost(groups []Group) []Group {
	var out []Group
	for n, g := range groups {
		covered := slices.ContainsFunc(groups, func(o Group) bool {
			return g.ID != o.ID && strings.HasPrefix(g.Path, o.Path+"/")
		})
		if !covered && !slices.ContainsFunc(groups[:n], func(o Group) bool { return g.ID == o.ID }) {
			out = append(out, g)
		}
	}
	return out
}

// Dirs returns the directories of groups.
func Dirs(groups []Group) []string {
	var dirs []string
	for _, g := range groups {
		dirs = append(dirs, g.Path)
	}
	return dirs
}

// MaxLevels limits the depth of cgroups that Sotto seals or excludes. It is MAX_LEVELS in
// bpf/settings.h.
const MaxLevels = 32

// maxSearchedLevels limits how many different levels the programs search. It is
// MAX_SEARCHED_LEVELS in bpf/settings.h.
const maxSearchedLevels = 8

// Levels is a set of levels as the programs read it: bit n stands for cgroups n levels below the
// root.
type Levels uint64

// Add adds the level of a cgroup. The error is for the operator: it names the fix.
func (l *Levels) Add(level uint32) error {
	if level >= MaxLevels {
		return fmt.Errorf("more than %d levels below the root; name a cgroup above it instead", MaxLevels)
	}
	with := *l | 1<<level
	if bits.OnesCount64(uint64(with)) > maxSearchedLevels {
		return fmt.Errorf("it would be at the %dth different level below the root, and %d are possible; name a cgroup above it instead",
			maxSearchedLevels+1, maxSearchedLevels)
	}
	*l = with
	return nil
}

// Level returns the number of levels between the cgroup and the root of the hierarchy.
func (g Group) Level(root string) (int, error) {
	rel, err := filepath.Rel(root, g.Path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return 0, fmt.Errorf("cgroup %s: not below %s", g.Path, root)
	}
	if rel == "." {
		return 0, nil
	}
	return 1 + strings.Count(rel, "/"), nil
}

// Exists reports whether the directory is still that of the same cgroup.
func (g Group) Exists() bool {
	id, err := ID(g.Path)
	return err == nil && id == g.ID
}

// CommonAncestor returns the deepest cgroup that contains all groups. A cgroup contains
// itself.
func CommonAncestor(groups []Group, root string) (Group, error) {
	if len(groups) == 1 {
		return groups[0], nil
	}
	dir := groups[0].Path
	for _, g := range groups[1:] {
		for dir != root && g.Path != dir && !strings.HasPrefix(g.Path, dir+"/") {
			dir = filepath.Dir(dir)
		}
	}
	id, err := ID(dir)
	return Group{dir, id}, err
}

// ProcessesIn returns the processes in the cgroup, without those below it.
func ProcessesIn(dir string) ([]int, error) {
	f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		// 0 stands for a process of another PID namespace, which cannot be addressed.
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
