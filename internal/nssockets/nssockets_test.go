// SPDX-License-Identifier: Apache-2.0

package nssockets

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/internal/mountinfo"
)

func TestMountOf(t *testing.T) {
	mounts := []mountinfo.Mount{{Point: "/"}, {Point: "/run"}, {Point: "/run/lock"}, {Point: "/run/sys"}}
	for path, want := range map[string]string{
		"/run/systemd/resolve": "/run", "/run/sys/x": "/run/sys", "/run": "/run", "/var/run": "/", "/run/sys": "/run/sys",
	} {
		if got := mountOf(path, mounts); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestStartHides: a process sees no socket in the directory, also not one that is bound later, but
// its other files, with their changes. Other processes see everything.
func TestStartHides(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	listen := func(name string) {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	listen("io.systemd.Resolve")
	file := filepath.Join(dir, "stub-resolv.conf")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func(old []string) { directories = old }(directories)
	directories = []string{dir, filepath.Join(dir, "missing")}

	cmd := exec.Command("sh", "-c", `read go; cat stub-resolv.conf; echo; ls; for f in *; do [ ! -S "$f" ] || echo socket "$f"; done`)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var started error
	// It enters the directory by its path, and so the mount.
	if err := Start(func() { started = cmd.Start() }); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	if started != nil {
		t.Fatal(started)
	}
	if err := os.WriteFile(file+".tmp", []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		t.Fatal(err)
	}
	listen("later")
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if out.String() != "new\nstub-resolv.conf\n" {
		t.Errorf("the command saw:\n%s", out.String())
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("this process sees %v, %v", entries, err)
	}
}

// TestExisting: a directory that is hidden already is not hidden again.
func TestExisting(t *testing.T) {
	dir := t.TempDir()
	a, b, link := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "link")
	for _, d := range []string{a, filepath.Join(b, hostName)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(a, link); err != nil {
		t.Fatal(err)
	}
	if got := existing([]string{link, a, b, filepath.Join(dir, "missing")}); !slices.Equal(got, []string{a}) {
		t.Errorf("%v, want only %s", got, a)
	}
}
