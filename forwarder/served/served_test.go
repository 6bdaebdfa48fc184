// SPDX-License-Identifier: Apache-2.0

package served

import (
	"context"
	"testing"
)

func TestContext(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	c := &Context{Context: parent}
	first, second := "first", "second"
	By(parent, &first) // records nothing
	if c.Server() != "" {
		t.Error("a server is recorded")
	}
	derived, stop := context.WithCancel(context.WithoutCancel(c))
	defer stop()
	By(derived, &first)
	By(c, &second)
	if c.Server() != first {
		t.Errorf("recorded %q", c.Server())
	}
	cancel()
	if <-c.Done(); c.Err() == nil || derived.Err() != nil {
		t.Error("the parent's end is not seen")
	}
	if n := testing.AllocsPerRun(100, func() { By(c, &second) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
