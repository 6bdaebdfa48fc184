// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// TestCacheFile checks that the cache is saved at a clean stop and loaded at the next start,
// per group, and that a file that is not a cache of Sotto is only a warning.
func TestCacheFile(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	caFile, file := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cache")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	a, b := startServer(t, ca, "192.0.2.1"), startServer(t, ca, "192.0.2.2")
	config := func(cacheFile, first, second string) string {
		return fmt.Sprintf("upstream = [%q]\nca-file = %q\ncache-file = %q\n[[group]]\nname = \"other\"\nupstream = [%q]\nca-file = %q\n[[rule]]\nname = \"other.example\"\nuse = \"other\"\n",
			first, caFile, cacheFile, second, caFile)
	}
	check := func(s *serving, names map[string]string) {
		t.Helper()
		for name, want := range names {
			if got, err := s.ask("udp", name); err != nil || got != want {
				t.Errorf("%s: %s, %v: want %s", name, got, err, want)
			}
		}
	}
	cached := map[string]string{"one.example": a.answer, "one.other.example": b.answer}
	// The setting may come with a reload.
	s, stop := startServing(t, config("", a.spec, b.spec))
	check(s, cached)
	s.configure(config(file, a.spec, b.spec))
	if _, stderr, status := call(t, "reload", "--control", s.control); status != 0 {
		t.Fatalf("status %d, %q", status, stderr)
	}
	stop()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}

	s, stop = startServing(t, config(file, "127.0.0.1:1", "127.0.0.1:1"))
	check(s, cached)
	check(s, map[string]string{"two.example": "SERVFAIL"})
	stop()

	for what, make := range map[string]func() error{
		"not a file that Sotto saved its cache to": func() error { return os.WriteFile(file, []byte("not a cache"), 0o600) },
		"not a regular file":                       func() error { return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)) },
		"others can write it":                      func() error { return os.Chmod(file, 0o666) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		s, stop = startServing(t, config(file, a.spec, b.spec)) // which fails the test if it blocks
		if log := s.log(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "file="+file) || !strings.Contains(log, what) {
			t.Errorf("no warning that %s is %s:\n%s", file, what, log)
		}
		check(s, cached)
		stop()
	}
	s, stop = startServing(t, config(filepath.Join(dir, "nowhere", "cache"), a.spec, b.spec))
	check(s, cached)
	stop()
	if log := s.log(); !strings.Contains(log, "the cache is empty after the next start") {
		t.Errorf("no warning of the directory:\n%s", log)
	}
}
