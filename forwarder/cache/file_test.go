// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

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
