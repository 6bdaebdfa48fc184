// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSubtreeOf(t *testing.T) {
	for path, want := range map[string]string{
		"/": "",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-1.scope/container": "/user.slice/user-1000.slice",
		"/user.slice/user-1000.slice":                   "/user.slice/user-1000.slice",
		"/user.slice":                                   "",
		"/user.slice/user-x.slice/a":                    "",
		"/user.slice/user-.slice/a":                     "",
		"/system.slice/web.service/a":                   "/system.slice/web.service",
		"/system.slice/system-db.slice/db@1.service":    "/system.slice/system-db.slice/db@1.service",
		"/machine.slice/libpod-1.scope":                 "/machine.slice/libpod-1.scope",
		"/docker/1":                                     "",
		"/kubepods.slice/kubepods-pod1.slice/cri.scope": "/kubepods.slice/kubepods-pod1.slice/cri.scope",
	} {
		if got := SubtreeOf(path); got != want {
			t.Errorf("%s is in the subtree %q, want %q", path, got, want)
		}
	}
}

func TestSubtrees(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{
		"user.slice/user-1000.slice/user@1000.service", "system.slice/a.service/b.service",
		"system.slice/system-db.slice/db@1.service", "docker/1/c.service", "init.scope",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Subtrees(root)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i], _ = filepath.Rel(root, got[i])
	}
	want := []string{"init.scope", "system.slice/a.service", "system.slice/system-db.slice/db@1.service", "user.slice/user-1000.slice"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
