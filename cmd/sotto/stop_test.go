// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"sotto/internal/control"
)

// TestStopper: when a stop takes effect, and as what, by what happened before it and after.
func TestStopper(t *testing.T) {
	for _, tc := range []struct {
		events string
		want   error // the cause of the end; nil: it goes on
	}{
		{"stop", context.Canceled},
		{"stop stop", context.Canceled},
		{"hold", nil},
		{"hold stop", nil},
		{"hold stop stop", nil},
		{"hold stop owns", context.Canceled},
		{"hold owns", nil},
		{"hold owns stop", context.Canceled},
		{"hold owns hold stop owns", context.Canceled},
		{"hold busy owns hold", nil},
		{"stop stopping", context.Canceled},
		{"borrows", nil},
		{"borrows stop", errWithdrawn},
		{"stop borrows", context.Canceled},
		{"borrows stop stopping", errWithdrawn},
		{"borrows hold stop", nil},
		{"borrows hold stop owns", context.Canceled},
		{"borrows owns stop", context.Canceled},
		{"borrows stop owns", errWithdrawn},
	} {
		ctx, s := newStopper(t.Context(), slog.New(slog.DiscardHandler))
		for event := range strings.FieldsSeq(tc.events) {
			var err, want error
			switch event {
			case "stop":
				s.stop()
			case "owns":
				s.become(owns)
			case "borrows":
				s.become(borrows)
			case "hold":
				err = s.hold()
			case "busy":
				err, want = s.hold(), errHandingOver
			case "stopping":
				err, want = s.hold(), errStopping
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
		s.end(nil)
	}
}
