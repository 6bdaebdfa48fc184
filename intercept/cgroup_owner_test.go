// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/netlab/labtest"
)

// TestRootOwned: each way in which a user can have been given a cgroup is seen, in the
// cgroup itself and above it.
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
	check("all of root", own, "")
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
	check("all of root again", own, "")
	// An owner above shadows what is root's below.
	if err := os.Chown(top, 65534, 0); err != nil {
		t.Fatal(err)
	}
	check("the top belongs to a user", filepath.Dir(top), "belongs to user 65534")

	if _, err := RootOwned("/tmp"); err == nil {
		t.Error("/tmp passes for a cgroup")
	}
}

// TestCommandCgroup: a name that is taken is no reason not to start a command.
func TestCommandCgroup(t *testing.T) {
	labtest.NeedRoot(t)
	parent := labtest.NewCgroup(t).Path
	var all []*Cgroup
	for _, want := range []string{"command", "command-2", "command-3"} {
		c, err := NewCommandCgroup(parent, "command")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		if c.Path() != filepath.Join(parent, want) {
			t.Errorf("made %s, want %s", c.Path(), want)
		}
	}
	for _, c := range all {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := NewCommandCgroup(filepath.Join(parent, "gone"), "command"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a cgroup that does not exist: %v", err)
	}
}
