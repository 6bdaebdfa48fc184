// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"testing"
)

// recorder is a testing.TB that notes how a test was ended.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.skipped = true }
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

// A missing tool skips, and fails where skips are not allowed.
func TestSkipIsHonest(t *testing.T) {
	t.Setenv(require, "")
	r := &recorder{}
	NeedTool(r, "no-such-program-anywhere")
	if !r.skipped || r.failed {
		t.Errorf("skipped %v, failed %v; want a skip", r.skipped, r.failed)
	}
	t.Setenv(require, "1")
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
