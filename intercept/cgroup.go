// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoCgroup2 ends with the mend.
var errNoCgroup2 = errors.New("find cgroup2: it is not mounted here; try: mount -t cgroup2 none /sys/fs/cgroup/unified (in a container: start it with --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup)")

// mount is a line of mountinfo, as far as it matters here; see proc(5).
type mount struct {
	root, point, fstype string
}

// parseMountinfo returns the mounts that data tells of. Lines that it does not
// understand are left out.
func parseMountinfo(data []byte) []mount {
	var out []mount
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		// 36 35 98:0 /root /point opts [optional fields…] - fstype source superopts
		for i := 6; i+1 < len(fields); i++ {
			if fields[i] == "-" {
				out = append(out, mount{unescape(fields[3]), unescape(fields[4]), fields[i+1]})
				break
			}
		}
	}
	return out
}

// unescape undoes the octal escapes that mountinfo has for blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b bytes.Buffer
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// findCgroup2 picks the mount that shows the most of the hierarchy: one that is
// not a part of it, the last one made.
func findCgroup2(mounts []mount) (string, error) {
	partial := ""
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i]
		switch {
		case m.fstype != "cgroup2":
		case m.root == "/":
			return m.point, nil
		default:
			partial = m.point
		}
	}
	if partial != "" {
		return "", errCgroupNamespace(partial)
	}
	return "", errNoCgroup2
}

// errCgroupNamespace tells of a container that sees its own part only.
func errCgroupNamespace(point string) error {
	return fmt.Errorf("find cgroup2: %s shows only a part of the hierarchy, as in a container with its own cgroup namespace; start the container with --cgroupns=host", point)
}

// rootInode is the inode of the hierarchy's real root: the first of its kernfs. In
// a cgroup namespace, "/" is some other cgroup, with another number.
const rootInode = 1

// CgroupRoot returns the directory where the whole cgroup2 hierarchy is mounted.
func CgroupRoot() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	point, err := findCgroup2(parseMountinfo(data))
	if err != nil {
		return "", err
	}
	id, err := cgroupID(point)
	if err != nil {
		return "", err
	}
	if id != rootInode {
		return "", errCgroupNamespace(point)
	}
	return point, nil
}

// OwnCgroup returns the directory of the calling process's cgroup.
func OwnCgroup() (string, error) {
	root, err := CgroupRoot()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find own cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			if strings.HasPrefix(path, "/..") {
				return "", errCgroupNamespace(root)
			}
			return filepath.Join(root, path), nil
		}
	}
	return "", fmt.Errorf("find own cgroup: %w", errNoCgroup2)
}

// FindCgroup returns the directory of a cgroup that a person named: by its
// directory, or by its path below the root of the hierarchy, as systemd-cgls and
// /proc/PID/cgroup show it.
func FindCgroup(path string) (string, error) {
	root, err := CgroupRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Clean(path)
	if dir != root && !strings.HasPrefix(dir, root+"/") {
		dir = filepath.Join(root, path)
	}
	if _, err := cgroupID(dir); err != nil {
		return "", err
	}
	return dir, nil
}

// cgroupID returns the number that bpf_get_current_cgroup_id gives inside the
// cgroup. It is never given to another.
func cgroupID(dir string) (uint64, error) {
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

// group is a cgroup by its directory and number. Both are kept in records: the
// same directory may be another cgroup by now.
type group struct {
	Path string `json:"path"`
	ID   uint64 `json:"id"`
}

// findGroups looks up directories.
func findGroups(dirs []string) ([]group, error) {
	var out []group
	for _, dir := range dirs {
		id, err := cgroupID(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, group{filepath.Clean(dir), id})
	}
	return out, nil
}

// level is how far below the root of the hierarchy a cgroup is.
func (g group) level(root string) (int, error) {
	rel, err := filepath.Rel(root, g.Path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return 0, fmt.Errorf("cgroup %s: not below %s", g.Path, root)
	}
	if rel == "." {
		return 0, nil
	}
	return 1 + strings.Count(rel, "/"), nil
}

// same tells whether the directory is still that cgroup.
func (g group) same() bool {
	id, err := cgroupID(g.Path)
	return err == nil && id == g.ID
}

// readProcs returns the processes in the cgroup itself.
func readProcs(dir string) ([]int, error) {
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
		// 0 is a process of another PID namespace: out of reach.
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
