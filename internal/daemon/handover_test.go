// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sotto/forwarder"
	"sotto/intercept"
)

// TestWithdrawalWaits: a process that withdraws waits for the replies of its slowest group.
func TestWithdrawalWaits(t *testing.T) {
	p, err := planText(group+"timeout = \"30s\"\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newResolver(t.Context(), p, sealHooks{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := seal{resolver: r, isShared: func() bool { return true }}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errNotTakenOver)
	cause := s.stopCause(ctx)
	var w *forwarder.Withdrawal
	if !errors.As(cause, &w) || !errors.Is(cause, errNotTakenOver) {
		t.Fatalf("the cause is %v", cause)
	}
	if w.Wait <= 30*time.Second || w.Wait != r.groups.queryTime() {
		t.Errorf("it waits for %s", w.Wait)
	}
}

// TestReclaimPatience: only a process that takes longer to exit than the slowest query hangs.
func TestReclaimPatience(t *testing.T) {
	for exit, hangs := range map[time.Duration]int{35 * time.Second: 0, 2 * time.Minute: 1} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			h := handover{log: slog.New(slog.NewTextHandler(&log, nil))}
			start := time.Now()
			err := h.reclaim(t.Context(), 32*time.Second, func() error {
				time.Sleep(10 * time.Second)
				if time.Since(start) < exit {
					return intercept.ErrOwned
				}
				return nil
			})
			if err != nil || strings.Count(log.String(), "hangs") != hangs || !strings.Contains(log.String(), "reclaimed the seal") {
				t.Errorf("a process that exits after %s: %v\n%s", exit, err, &log)
			}
		})
	}
}
