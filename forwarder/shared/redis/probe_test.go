// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"sync/atomic"
	"testing"

	"sotto/forwarder/shared"
)

// TestProbeIsOneRoundTrip: a probe asks on all connections at the same time, so the timeout of a
// lookup is enough for it.
func TestProbeIsOneRoundTrip(t *testing.T) {
	var greeted, asked atomic.Int32
	all := make(chan struct{})
	s := fakeServer(t, func(string) string {
		if greeted.Add(1) <= shared.Connections { // it connects
			return "+PONG\r\n"
		}
		if asked.Add(1) == shared.Connections {
			close(all)
		}
		<-all
		return "+PONG\r\n"
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 2 {
		if err := s.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != shared.Connections {
		t.Errorf("%d connections were asked, want %d", n, shared.Connections)
	}
}
