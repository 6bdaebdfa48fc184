// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"sotto/internal/control"
)

// TestStopper: when a stop takes effect, and with which cause, by the events before and after
// it.
func TestStopper(t *testing.T) {
	for _, tc := range []struct {
		events string
		want   error // the cause of the context; nil if it has not ended
	}{
		{"stop", context.Canceled},
		{"stop stop", context.Canceled},
		{"begin", nil},
		{"begin stop", nil},
		{"begin stop stop", nil},
		{"begin stop owned", context.Canceled},
		{"begin owned", nil},
		{"begin owned stop", context.Canceled},
		{"begin owned begin stop owned", context.Canceled},
		{"begin busy owned begin", nil},
		{"stop stopping", context.Canceled},
		{"notowned", nil},
		{"notowned stop", errNotTakenOver},
		{"stop notowned", context.Canceled},
		{"notowned stop stopping", errNotTakenOver},
		{"notowned begin stop", nil},
		{"notowned begin stop owned", context.Canceled},
		{"notowned owned stop", context.Canceled},
		{"notowned stop owned", errNotTakenOver},
	} {
		ctx, s := newStopper(t.Context(), slog.New(slog.DiscardHandler))
		for event := range strings.FieldsSeq(tc.events) {
			var err, want error
			switch event {
			case "stop":
				s.stop()
			case "owned":
				s.set(owned)
			case "notowned":
				s.set(notOwned)
			case "begin":
				err = s.beginTakeover()
			case "busy":
				err, want = s.beginTakeover(), errHandingOver
			case "stopping":
				err, want = s.beginTakeover(), errStopping
			}
			if !errors.Is(err, want) || want != nil && !errors.Is(err, control.ErrBusy) {
				t.Errorf("%s: %s: %v, want %v", tc.events, event, err, want)
			}
		}
		if got := context.Cause(ctx); got != tc.want {
			t.Errorf("%s: ended with %v, want %v", tc.events, got, tc.want)
		}
		if stopped(ctx) != (tc.want == context.Canceled) {
			t.Errorf("%s: stopped is %v", tc.events, stopped(ctx))
		}
		s.cancel(nil)
	}
}
