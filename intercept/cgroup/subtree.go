// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// isSubtree reports whether a cgroup with this name contains all processes of one user or one
// service, by the names that systemd gives them.
func isSubtree(name string) bool {
	uid, isUser := strings.CutPrefix(name, "user-")
	if isUser {
		uid, isUser = strings.CutSuffix(uid, ".slice")
	}
	return isUser && uid != "" && strings.Trim(uid, "0123456789") == "" ||
		strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope")
}

// SubtreeOf returns the path of the user's or service's cgroup that contains the workload with
// the given path: the outermost one, or "" if there is none.
func SubtreeOf(path string) string {
	for at := 1; at < len(path); at++ {
		end := strings.IndexByte(path[at:], '/')
		if end < 0 {
			end = len(path) - at
		}
		if isSubtree(path[at : at+end]) {
			return path[:at+end]
		}
		at += end
	}
	return ""
}

// Subtrees returns the directories of the cgroups of users and services. It searches the slices
// of systemd.
func Subtrees(root string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV):
			return nil // removed meanwhile
		case err != nil:
			return err
		case !d.IsDir() || path == root:
			return nil
		case isSubtree(d.Name()):
			out = append(out, path)
			return fs.SkipDir
		case !strings.HasSuffix(d.Name(), ".slice"):
			return fs.SkipDir
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list the cgroups of users and services: %w", err)
	}
	return out, nil
}
