// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// TestRunDirMode: other users can at most traverse the run directory, if package control has set
// that, and cannot use what is in it.
func TestRunDirMode(t *testing.T) {
	for _, tc := range []struct{ mode, want fs.FileMode }{
		{0o700, 0o700}, {0o755, 0o700}, {0o711, 0o711}, {0o710 | fs.ModeSetgid, 0o700}, {0o711 | fs.ModeSticky, 0o700},
	} {
		dir := t.TempDir()
		if err := os.Chmod(dir, tc.mode); err != nil {
			t.Fatal(err)
		}
		reg, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		lock, lerr := os.Stat(dir + "/lock")
		if err := errors.Join(err, lerr, reg.Release()); err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeDir|tc.want || lock.Mode() != 0o600 {
			t.Errorf("%v: the directory has %v, want %v; the lock has %v", tc.mode, info.Mode(), tc.want, lock.Mode())
		}
	}
}
