// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/forwarder/wire"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "answers")
	c := newCache(t, Config{})
	if n, err := c.LoadFile(path, t0); n != 0 || err != nil {
		t.Fatalf("no file: %d, %v", n, err)
	}
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	c.Put(wire.AppendKey(nil, &q), &r, t0)
	// Leftovers of a crash, or another user's link.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path+".new"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second replaces the first
		if err := c.SaveFile(path, t0); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(victim); string(b) != "mine" || err != nil {
		t.Errorf("the target of the link is now %q, %v", b, err)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", fi, err)
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 {
		t.Errorf("left over: %v, %v", names, err)
	}
	restarted := newCache(t, Config{})
	if n, err := restarted.LoadFile(path, t0.Add(time.Minute)); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	checkGet(t, restarted, &q, 0, t0.Add(time.Minute), event{state: Fresh, ttl: 240})
}

// TestFileErrors: errors name the file, and a failed save keeps the old file.
func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "answers")
	c := newCache(t, Config{})
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.LoadFile(path, t0); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a foreign file: %v", err)
	}
	if _, err := c.LoadFile(dir, t0); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory: %v", err)
	}
	nowhere := filepath.Join(dir, "missing", "answers")
	if err := c.SaveFile(nowhere, t0); err == nil || !strings.Contains(err.Error(), nowhere) {
		t.Errorf("no such directory: %v", err)
	}
	// The rename fails over a directory, and the temporary file is removed.
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.SaveFile(full, t0); err == nil || !strings.Contains(err.Error(), full) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := os.Lstat(full + ".new"); !os.IsNotExist(err) {
		t.Errorf("left over: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "something else" || err != nil {
		t.Errorf("the old file is now %q, %v", b, err)
	}
}

// saveOne saves a cache with one answer to a file.
func saveOne(t *testing.T, path string) {
	t.Helper()
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	c.Put(wire.AppendKey(nil, &q), &r, t0)
	if err := c.SaveFile(path, t0); err != nil {
		t.Fatal(err)
	}
}

// TestFileOfOthers: a file that another user could have written is not read, nothing at the
// path blocks, and errors give the reason.
func TestFileOfOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(path string) error
		want string // in the error; "": the file is read
		root bool
	}{
		"own":              {make: func(path string) error { return nil }},
		"open to read":     {make: func(path string) error { return os.Chmod(path, 0o644) }},
		"group can write":  {make: func(path string) error { return os.Chmod(path, 0o660) }, want: "group or others can write it (mode 0660)"},
		"others can write": {make: func(path string) error { return os.Chmod(path, 0o602) }, want: "group or others can write it (mode 0602)"},
		"of a user":        {make: func(path string) error { return os.Chown(path, 65534, 0) }, want: "it belongs to user 65534", root: true},
		"a link": {make: func(path string) error {
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		}, want: "symbolic link"},
		"a named pipe": {make: func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) }, want: "not a regular file"},
		"a device": {make: func(path string) error {
			return errors.Join(os.Remove(path), unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}, want: "not a regular file", root: true},
		"a socket": {make: func(path string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			return errors.Join(os.Remove(path), err, unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd))
		}, want: "no such device or address"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			path := filepath.Join(t.TempDir(), "answers")
			saveOne(t, path)
			if err := tc.make(path); err != nil {
				t.Fatal(err)
			}
			type result struct {
				n   int
				err error
			}
			done := make(chan result, 1)
			go func() {
				n, err := newCache(t, Config{}).LoadFile(path, t0)
				done <- result{n, err}
			}()
			select {
			case r := <-done:
				if tc.want == "" && (r.n != 1 || r.err != nil) {
					t.Errorf("loaded %d answers, %v", r.n, r.err)
				}
				if tc.want != "" && (r.n != 0 || r.err == nil || !strings.Contains(r.err.Error(), tc.want) || !strings.Contains(r.err.Error(), path)) {
					t.Errorf("loaded %d answers, %v: want an error with %q", r.n, r.err, tc.want)
				}
			case <-time.After(time.Minute):
				t.Fatal("LoadFile blocks")
			}
			// Saving replaces it, and follows no link.
			saveOne(t, path)
			if n, err := newCache(t, Config{}).LoadFile(path, t0); n != 1 || err != nil {
				t.Errorf("saved again: %d answers, %v", n, err)
			}
			if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
				t.Errorf("saved again: %v, %v", fi, err)
			}
		})
	}
}

// TestFileUser: a file may be owned by root or by the process's own user.
func TestFileUser(t *testing.T) {
	for _, tc := range []struct {
		uid, euid uint32
		ok        bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1000, 0, false}, {1001, 1000, false}} {
		if err := checkFile(&unix.Stat_t{Mode: unix.S_IFREG | 0o600, Uid: tc.uid}, tc.euid); (err == nil) != tc.ok {
			t.Errorf("a file of %d read by %d: %v", tc.uid, tc.euid, err)
		}
	}
}

// TestFilePath: nothing is written if another user can replace the directory or one above
// it.
func TestFilePath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, tc := range map[string]struct {
		make func(top string) error // top has a/b
		path string
		want string // in the error; "": the file is written
	}{
		"own":                   {make: func(string) error { return nil }, path: "a/b/answers"},
		"directory of a user":   {make: func(top string) error { return os.Chown(top+"/a/b", 65534, 65534) }, path: "a/b/answers"},
		"link of root":          {make: func(top string) error { return os.Symlink("a/b/../b", top+"/link") }, path: "link/answers"},
		"absolute link of root": {make: func(top string) error { return os.Symlink(top+"/a", top+"/link") }, path: "link/b/answers"},
		"group of root":         {make: func(top string) error { return os.Chmod(top+"/a", 0o775) }, path: "a/b/answers"},
		"sticky":                {make: func(top string) error { return os.Chmod(top+"/a", 0o777|fs.ModeSticky) }, path: "a/b/answers"},
		"parent of a user":      {make: func(top string) error { return os.Chown(top+"/a", 65534, 65534) }, path: "a/b/answers", want: "/a: it belongs to user 65534"},
		"parent of all users":   {make: func(top string) error { return os.Chmod(top+"/a", 0o777) }, path: "a/b/answers", want: "/a: all users can write to it"},
		"parent of a group": {make: func(top string) error { return errors.Join(os.Chown(top+"/a", 0, 65534), os.Chmod(top+"/a", 0o775)) },
			path: "a/b/answers", want: "/a: group 65534 can write to it"},
		"link of a user in a sticky directory": {make: func(top string) error {
			return errors.Join(os.Chmod(top+"/a", 0o777|fs.ModeSticky), os.Symlink(top+"/a/b", top+"/a/link"), os.Lchown(top+"/a/link", 65534, 65534))
		}, path: "a/link/answers", want: "/a/link is a symbolic link of user 65534"},
		"link below a directory of a user": {make: func(top string) error {
			return errors.Join(os.Chown(top+"/a", 65534, 65534), os.Symlink("a/b", top+"/link"))
		}, path: "link/answers", want: "/a: it belongs to user 65534"},
		"link to itself": {make: func(top string) error { return os.Symlink("link", top+"/link") }, path: "link/answers", want: "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "a", "b")
			if err := errors.Join(os.MkdirAll(dir, 0o755), tc.make(top)); err != nil {
				t.Fatal(err)
			}
			err := newCache(t, Config{}).SaveFile(filepath.Join(top, tc.path), t0)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v: want %q", err, tc.want)
			}
			names, rerr := os.ReadDir(dir)
			if rerr != nil || (len(names) == 1) != (tc.want == "") {
				t.Errorf("in the directory: %v, %v", names, rerr)
			}
		})
	}
}
