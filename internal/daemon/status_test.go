// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"io"
	"log/slog"
	"testing"
)

// TestStatusStopping: a process that was stopped and answers for the time of the setting drain is not
// starting.
func TestStatusStopping(t *testing.T) {
	p := planOf(t, group)
	o := Options{Stderr: io.Discard, Logger: func(slog.Leveler) *slog.Logger { return slog.New(slog.DiscardHandler) }}
	d, err := newDaemon(o, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.outputs.close(); err != nil {
			t.Error(err)
		}
	}()
	if d.resolver, err = newResolver(t.Context(), p, sealHooks{}, d.hub, d.log); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.resolver.Close(); err != nil {
			t.Error(err)
		}
	}()
	if s := d.status(); s.State() != "ready" {
		t.Errorf("before the stop: %s", s.State())
	}
	d.draining.Store(true)
	if s := d.status(); s.State() != "stopping" {
		t.Errorf("after it: %s", s.State())
	}
}
