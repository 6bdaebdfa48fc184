// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sotto/internal/mountinfo"
	"sotto/internal/netlab/labtest"
)

func TestFindRoot(t *testing.T) {
	for name, c := range map[string]struct{ mountinfo, want, wantErr string }{
		"unified": {`24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate`,
			"/sys/fs/cgroup", ""},
		"hybrid": {`25 22 0:23 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:24 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 25 0:33 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw`,
			"/sys/fs/cgroup/unified", ""},
		"blank in the path": {`35 25 0:33 / /mnt/my\040cgroups rw - cgroup2 none rw`, "/mnt/my cgroups", ""},
		"several optional fields": {`35 25 0:33 / /sys/fs/cgroup rw shared:1 master:2 propagate_from:3 - cgroup2 none rw`,
			"/sys/fs/cgroup", ""},
		"a partial mount and a whole one": {`35 25 0:33 / /sys/fs/cgroup rw - cgroup2 none rw
36 25 0:33 /user.slice /mnt rw - cgroup2 none rw`, "/sys/fs/cgroup", ""},
		"own namespace": {`35 25 0:33 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw`, "", "--cgroupns=host"},
		"above own":     {`35 25 0:33 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw`, "", "--cgroupns=host"},
		"version 1":     {`26 25 0:24 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu`, "", "mount -t cgroup2"},
		"nothing":       {"", "", "not mounted"},
		"garbage":       {"1 2 3\n - - -\n- cgroup2\n", "", "not mounted"},
	} {
		got, err := findRoot(mountinfo.Parse([]byte(c.mountinfo)))
		if got != c.want || (err == nil) != (c.wantErr == "") || (err != nil && !strings.Contains(err.Error(), c.wantErr)) {
			t.Errorf("%s: found %q, %v; want %q, %q", name, got, err, c.want, c.wantErr)
		}
	}
}

func TestLevel(t *testing.T) {
	for path, want := range map[string]int{"/cg": 0, "/cg/a": 1, "/cg/a/b/c": 3, "/other": -1, "/cgroup": -1} {
		got, err := Group{Path: path}.Level("/cg")
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%s is %d levels deep, want %d", path, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	labtest.NeedRoot(t)
	c := labtest.NewCgroup(t)
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(c.Path)
	for _, path := range []string{c.Path, name, "/" + name, c.Path + "/"} {
		if got, err := Find(path); err != nil || got != c.Path {
			t.Errorf("Find(%q) = %q, %v", path, got, err)
		}
	}
	if got, err := Find("/"); err != nil || got != root {
		t.Errorf("root: %q, %v", got, err)
	}
	if _, err := Find("/no/such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cgroup that does not exist: %v", err)
	}
	if _, err := ID("/tmp"); err == nil {
		t.Error("/tmp was accepted as a cgroup")
	}
	if id, err := ID(c.Path); err != nil || id != c.ID {
		t.Errorf("ID %d, %v; want %d", id, err, c.ID)
	}
	own, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := ProcessesIn(own); err != nil || !slices.Contains(pids, os.Getpid()) {
		t.Errorf("own cgroup %s does not contain this process: %v", own, err)
	}
}

// Kill also kills processes in cgroups that a command created below its own, and Close
// removes those cgroups.
func TestKill(t *testing.T) {
	labtest.NeedRoot(t)
	parent := labtest.NewCgroup(t)
	l := labtest.New(t)
	host := labtest.Host(t, l, "h")
	c, err := Create(parent.Path, "command")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(parent.Path, "command"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	cmd := host.Command(t.Context(), nil, "sh", "-c",
		`mkdir $0/sub && echo $$ > $0/sub/cgroup.procs && sleep 60 & echo $! > $0/cgroup.procs; mkdir -p $0/other; echo in; exec sleep 60`, c.Path())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	labtest.WaitFor(t, "a process in the cgroup", func() bool {
		pids, err := Processes(c.Path())
		return err == nil && len(pids) > 0
	})
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if pids, err := Processes(c.Path()); err != nil || len(pids) != 0 {
		t.Errorf("processes left: %v, %v", pids, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup was not removed: %v", err)
	}
	_ = cmd.Process.Kill() // the shell may have stayed outside the cgroup
	_ = cmd.Wait()
}

func TestOutermost(t *testing.T) {
	a, ab, abc, ax, d := Group{"/a", 1}, Group{"/a/b", 2}, Group{"/a/b/c", 3}, Group{"/ax", 4}, Group{"/d", 5}
	for _, tc := range []struct{ groups, want []Group }{
		{nil, nil},
		{[]Group{a, ax, d}, []Group{a, ax, d}},
		{[]Group{abc, d, ab, a, ax}, []Group{d, a, ax}},
		{[]Group{ab, abc, ab}, []Group{ab}},
	} {
		if got := Outermost(tc.groups); !slices.Equal(got, tc.want) {
			t.Errorf("Outermost(%v) = %v, want %v", tc.groups, got, tc.want)
		}
	}
}

func TestLevels(t *testing.T) {
	var l Levels
	for _, level := range []uint32{0, 31, 4, 4, 5, 6, 7, 8, 9} {
		if err := l.Add(level); err != nil {
			t.Errorf("level %d: %v", level, err)
		}
	}
	want := l
	for _, level := range []uint32{10, 32, 64} {
		if err := l.Add(level); err == nil {
			t.Errorf("level %d was added", level)
		}
	}
	if l != want || l != 1|0x3f<<4|1<<31 {
		t.Errorf("levels %b", l)
	}
}
