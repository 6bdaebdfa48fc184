// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// A failure that lasts is logged once, however many heartbeats there are in between.
func TestLogsFailureOnce(t *testing.T) {
	var log strings.Builder
	g := &Guard{attached: true, cfg: Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)), WriteState: func(State) error { return nil },
	}}
	for range 3 {
		g.logFailure(errors.New("link eth7: no place"))
		g.beat()
	}
	if n := strings.Count(log.String(), "no place"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}
