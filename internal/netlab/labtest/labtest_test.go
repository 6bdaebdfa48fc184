// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"testing"
)

// recorder is a testing.TB that records whether the test was skipped or failed.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.skipped = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

// TestSkip checks that a missing tool skips the test, or fails it if skips are not allowed.
func TestSkip(t *testing.T) {
	t.Setenv(requireVar, "")
	r := &recorder{}
	NeedTool(r, "no-such-program-anywhere")
	if !r.skipped || r.failed {
		t.Errorf("skipped %v, failed %v; want a skip", r.skipped, r.failed)
	}
	t.Setenv(requireVar, "1")
	r = &recorder{}
	NeedTool(r, "no-such-program-anywhere")
	if r.skipped || !r.failed {
		t.Errorf("skipped %v, failed %v; want a failure", r.skipped, r.failed)
	}
	r = &recorder{}
	NeedRoot(r)
	if r.failed != (os.Geteuid() != 0) {
		t.Errorf("as user %d: failed %v", os.Geteuid(), r.failed)
	}
}
