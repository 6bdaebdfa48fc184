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
	// What a crash left, and who would have others read what was asked.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path+".new"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time over the first
		if err := c.SaveFile(path, t0); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(victim); string(b) != "mine" || err != nil {
		t.Errorf("the file that a link led to is now %q, %v", b, err)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", fi, err)
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	young := newCache(t, Config{})
	if n, err := young.LoadFile(path, t0.Add(time.Minute)); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	checkGet(t, young, &q, 0, t0.Add(time.Minute), event{state: Fresh, ttl: 240})
}

// TestFileErrors: they name the file, and a failed save leaves the old one.
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
	// A directory cannot be renamed over: the way is cleaned up.
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.SaveFile(full, t0); err == nil || !strings.Contains(err.Error(), full) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := os.Lstat(full + ".new"); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
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

// TestFileOfOthers: what another user could have written is not read, whatever stands
// at the path does not block, and both errors say what is wrong.
func TestFileOfOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(path string) error
		want string // of the error; "": it is read
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
		"a named pipe": {make: func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) }, want: "no regular file"},
		"a device": {make: func(path string) error {
			return errors.Join(os.Remove(path), unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}, want: "no regular file", root: true},
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
					t.Errorf("took in %d answers, %v", r.n, r.err)
				}
				if tc.want != "" && (r.n != 0 || r.err == nil || !strings.Contains(r.err.Error(), tc.want) || !strings.Contains(r.err.Error(), path)) {
					t.Errorf("took in %d answers, %v: want an error with %q", r.n, r.err, tc.want)
				}
			case <-time.After(time.Minute):
				t.Fatal("it blocks")
			}
			// A clean stop writes it anew, and follows nothing.
			saveOne(t, path)
			if n, err := newCache(t, Config{}).LoadFile(path, t0); n != 1 || err != nil {
				t.Errorf("written anew: %d answers, %v", n, err)
			}
			if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
				t.Errorf("written anew: %v, %v", fi, err)
			}
		})
	}
}

// TestFileUser: a file of root's is good for every user, and of one's own.
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

// TestFileWay: where another user can put something else in the place of the directory,
// or of what is above it, nothing is written.
func TestFileWay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, tc := range map[string]struct {
		make func(top string) error // in which is a/b
		path string
		want string // of the error; "": it is written
	}{
		"own":                    {make: func(string) error { return nil }, path: "a/b/answers"},
		"its directory a user's": {make: func(top string) error { return os.Chown(top+"/a/b", 65534, 65534) }, path: "a/b/answers"},
		"a link of root's":       {make: func(top string) error { return os.Symlink("a/b/../b", top+"/link") }, path: "link/answers"},
		"a whole link of root's": {make: func(top string) error { return os.Symlink(top+"/a", top+"/link") }, path: "link/b/answers"},
		"a group of root's":      {make: func(top string) error { return os.Chmod(top+"/a", 0o775) }, path: "a/b/answers"},
		"sticky":                 {make: func(top string) error { return os.Chmod(top+"/a", 0o777|fs.ModeSticky) }, path: "a/b/answers"},
		"above it a user's":      {make: func(top string) error { return os.Chown(top+"/a", 65534, 65534) }, path: "a/b/answers", want: "/a: it belongs to user 65534"},
		"above it everybody's":   {make: func(top string) error { return os.Chmod(top+"/a", 0o777) }, path: "a/b/answers", want: "/a: everybody can write there"},
		"above it a group's": {make: func(top string) error { return errors.Join(os.Chown(top+"/a", 0, 65534), os.Chmod(top+"/a", 0o775)) },
			path: "a/b/answers", want: "/a: group 65534 can write there"},
		"a user's link in a sticky one": {make: func(top string) error {
			return errors.Join(os.Chmod(top+"/a", 0o777|fs.ModeSticky), os.Symlink(top+"/a/b", top+"/a/link"), os.Lchown(top+"/a/link", 65534, 65534))
		}, path: "a/link/answers", want: "/a/link is a symbolic link of user 65534"},
		"a link to a user's": {make: func(top string) error {
			return errors.Join(os.Chown(top+"/a", 65534, 65534), os.Symlink("a/b", top+"/link"))
		}, path: "link/answers", want: "/a: it belongs to user 65534"},
		"links in a circle": {make: func(top string) error { return os.Symlink("link", top+"/link") }, path: "link/answers", want: "too many levels"},
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
