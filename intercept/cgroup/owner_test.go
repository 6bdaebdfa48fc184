// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/netlab/labtest"
)

// Every way to delegate a cgroup to a user is detected, in the cgroup itself and above it.
func TestRootOwned(t *testing.T) {
	labtest.NeedRoot(t)
	top := labtest.NewCgroup(t).Path
	middle, own := filepath.Join(top, "middle"), filepath.Join(top, "middle", "own")
	for _, dir := range []string{middle, own} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
	}
	check := func(what, want, wantLeavable string) {
		t.Helper()
		if got, err := RootOwned(own); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", what, got, err, want)
		}
		why, err := Leavable(own)
		if err != nil || (why == "") != (wantLeavable == "") || !strings.Contains(why, wantLeavable) {
			t.Errorf("%s: leavable %q, %v; want %q", what, why, err, wantLeavable)
		}
	}
	check("all owned by root", own, "")
	for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		for how, set := range map[string]func(path string, back bool) error{
			"belongs to": func(path string, back bool) error {
				if back {
					return os.Chown(path, 0, 0)
				}
				return os.Chown(path, 65534, 0)
			},
			"mode": func(path string, back bool) error {
				mode := fs.FileMode(0o644)
				if name == "" {
					mode = 0o755
				}
				if !back {
					mode |= 0o020
				}
				return os.Chmod(path, mode)
			},
		} {
			for dir, want := range map[string]struct{ parent, leavable string }{
				own: {middle, ""}, middle: {top, filepath.Join(middle, name) + " "},
			} {
				path := filepath.Join(dir, name)
				if err := set(path, false); err != nil {
					t.Fatal(err)
				}
				check(path+" "+how, want.parent, want.leavable)
				if err := set(path, true); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	check("all owned by root again", own, "")
	// A cgroup that a user owns makes those below it unsuitable.
	if err := os.Chown(top, 65534, 0); err != nil {
		t.Fatal(err)
	}
	check("the top is owned by a user", filepath.Dir(top), "belongs to user 65534")

	if _, err := RootOwned("/tmp"); err == nil {
		t.Error("/tmp was accepted as a cgroup")
	}
}

// A cgroup that does not exist, below parents that do not, is judged by those above it that exist.
func TestLeavableMissing(t *testing.T) {
	labtest.NeedRoot(t)
	top := labtest.NewCgroup(t).Path
	missing := filepath.Join(top, "missing", "slice", "service")
	if why, err := Leavable(missing); err != nil || why != "" {
		t.Errorf("below cgroups of root: %q, %v", why, err)
	}
	if err := os.Chown(top, 65534, 0); err != nil {
		t.Fatal(err)
	}
	if why, err := Leavable(missing); err != nil || !strings.Contains(why, "belongs to user 65534") {
		t.Errorf("below the cgroup of a user: %q, %v", why, err)
	}
}

// If a name is in use, the cgroup gets another one.
func TestCreateForCommand(t *testing.T) {
	labtest.NeedRoot(t)
	parent := labtest.NewCgroup(t).Path
	var all []*Created
	for _, want := range []string{"command", "command-2", "command-3"} {
		c, err := CreateForCommand(parent, "command")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		if c.Path() != filepath.Join(parent, want) {
			t.Errorf("created %s, want %s", c.Path(), want)
		}
	}
	for _, c := range all {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := CreateForCommand(filepath.Join(parent, "gone"), "command"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a cgroup that does not exist: %v", err)
	}
}
