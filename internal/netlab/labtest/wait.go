// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// patienceVar is the environment variable by which a slow machine, such as an emulated one, lets
// tests wait for a multiple of their time limits.
const patienceVar = "SOTTO_TEST_PATIENCE"

// Patience returns how long a test waits for something that takes at most d on a usual machine.
func Patience(d time.Duration) time.Duration {
	return d * time.Duration(patience())
}

// minRate is a number of queries per second that every machine can answer.
const minRate = 20

// Rate returns how many queries per second a test sends, of which a usual machine gets perSecond.
// On a slow machine more would only measure its limit: queries wait, and time out.
func Rate(perSecond int) int {
	n := patience()
	return max(perSecond/(n*n*n), min(perSecond, minRate))
}

func patience() int {
	if n, err := strconv.Atoi(os.Getenv(patienceVar)); err == nil && n > 1 {
		return n
	}
	return 1
}

// Eventually waits until check returns nil. It reports an error after a time that is long
// enough for a loaded machine.
func Eventually(t testing.TB, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(Patience(15 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
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
	for deadline := time.Now().Add(Patience(15 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}
