// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"testing"

	"sotto/forwarder"
	"sotto/internal/observe"
)

// TestRepliesOfListener: answers in the kernel do not show the watchdog that the listener works.
func TestRepliesOfListener(t *testing.T) {
	d := &daemon{hub: new(observe.Hub)}
	d.hub.Repeated("/a", 0, 5)
	if got := d.replies(); got != 0 {
		t.Errorf("after 5 replies of the kernel: %d", got)
	}
	d.hub.Observe(forwarder.Event{Source: forwarder.FromCache})
	d.hub.Observe(forwarder.Event{Source: forwarder.FromUpstream})
	if got := d.replies(); got != 2 {
		t.Errorf("after 2 replies of the listener: %d", got)
	}
}
