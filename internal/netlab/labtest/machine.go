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

// machine is the lock that test processes share the machine by.
var machine struct {
	sync.Mutex
	held int // tests of this process that have it
	file *os.File
}

// Machine keeps the machine for the tests of this process until t ends: what has
// but one name on it (the instance of `run`, everything that `down` takes away) is
// not shared with the tests of other packages, which the go command runs at the
// same time. New calls it.
func Machine(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	machine.Lock()
	defer machine.Unlock()
	if machine.held == 0 {
		f, err := lockMachine()
		if err != nil {
			t.Fatal(err)
		}
		machine.file = f
	}
	machine.held++
	t.Cleanup(func() {
		machine.Lock()
		defer machine.Unlock()
		if machine.held--; machine.held == 0 {
			machine.file.Close() // gives the lock back
		}
	})
}

// lockMachine waits for the lock. The kernel takes it from a process that ends.
func lockMachine() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "sotto-test.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err {
		case nil:
			return f, nil
		case unix.EINTR: // the Go runtime's own signals
		default:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
