// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"testing"

	"sotto/internal/netlab/labtest"
)

// All probes succeed on a kernel that supports Sotto, and can fail.
func TestNeeds(t *testing.T) {
	labtest.NeedRoot(t)
	for _, n := range needs() {
		if err := n.probe(); err != nil {
			t.Errorf("%s: %v", n.what, err)
		}
	}
	if err := passProgram(0, 0); err == nil {
		t.Error("a program without a type was loaded")
	}
	if got := missing(need{what: "getpeername hook", since: "5.8"}, "5.4.0-42").Error(); got !=
		"this kernel (5.4.0-42) has no getpeername hook: Linux 5.8 or newer with CONFIG_CGROUP_BPF is needed" {
		t.Error(got)
	}
	if Release() == "unknown" {
		t.Error("the release is unknown")
	}
	cause := errors.New("another cause")
	if got := Explain(cause); got != cause {
		t.Errorf("Explain changed an error with an unknown cause: %v", got)
	}
}
