// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"testing"
	"time"
)

// Eventually waits until check returns nil. It reports an error after a time that is long
// enough for a loaded machine.
func Eventually(t testing.TB, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Error(err)
}

// WaitFor waits until ok returns true, and fails the test like [Eventually]. what names the
// condition. The test stops.
func WaitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}
