// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// machineLock is the lock between test processes on this machineLock.
var machineLock struct {
	sync.Mutex
	users int // tests of this process that hold it
	file  *os.File
}

// LockMachine holds a lock until t ends that excludes tests in other processes: the go
// command runs the tests of several packages at the same time, and some objects exist only
// once per machine (the instance of `run`, everything that `down` removes). New calls it.
func LockMachine(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	machineLock.Lock()
	defer machineLock.Unlock()
	if machineLock.users == 0 {
		f, err := flockMachine()
		if err != nil {
			t.Fatal(err)
		}
		machineLock.file = f
	}
	machineLock.users++
	t.Cleanup(func() {
		machineLock.Lock()
		defer machineLock.Unlock()
		if machineLock.users--; machineLock.users == 0 {
			machineLock.file.Close() // releases the lock
		}
	})
}

// flockMachine waits for the lock. The kernel releases it when the process exits.
func flockMachine() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "sotto-test.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err {
		case nil:
			return f, nil
		case unix.EINTR: // signals of the Go runtime
		default:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
