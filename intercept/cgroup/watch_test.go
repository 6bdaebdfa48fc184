// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/netlab/labtest"
)

// watches returns the number of inotify watches of this process.
func watches(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		text, _ := os.ReadFile("/proc/self/fdinfo/" + f.Name()) // it may be closed by now
		n += strings.Count(string(text), "inotify wd:")
	}
	return n
}

// Watch sees a cgroup that is created again by its events alone, also if the one above it was
// removed and created, too, and has no more watches afterwards.
func TestWatch(t *testing.T) {
	top := labtest.NewCgroup(t)
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	above := filepath.Join(top.Path, "above")
	dir := filepath.Join(above, "dir")
	for _, d := range []string{above, dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(chan uint64, 1024)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- watch(ctx, root, []string{dir}, time.Hour, func() {
			id, _ := ID(dir)
			seen <- id
		}, func(err error) { t.Errorf("degraded: %v", err) })
	}()
	// wait waits until the cgroup with the ID was seen, or with 0, until none was.
	wait := func(want uint64) {
		t.Helper()
		end := time.After(20 * time.Second)
		for {
			select {
			case id := <-seen:
				if id == want {
					return
				}
			case <-end:
				t.Fatalf("never saw cgroup %d", want)
			}
		}
	}
	first := 0
	for n := range 6 {
		id, err := ID(dir)
		if err != nil {
			t.Fatal(err)
		}
		wait(id)
		if n == 0 {
			first = watches(t)
		}
		// The cgroup may be seen before the watch of the new one above it is set.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			now := watches(t)
			if now == first {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("round %d: %d watches, and %d in the first one", n, now, first)
			}
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 { // the watch of the directory above may only be set by now
			wait(0)
		}
		if err := os.Remove(above); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{above, dir} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
