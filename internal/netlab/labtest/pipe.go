// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FIFO makes a named pipe that is removed with the test.
func FIFO(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// MustReturn fails the test if do blocks for longer than the program waits for a pipe.
func MustReturn(t testing.TB, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s blocks", what)
	}
}
