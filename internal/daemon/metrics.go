// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net/http"

	"sotto/internal/metrics"
)

// serveMetrics serves metrics until ctx ends. A failure is logged only: queries are answered
// without them.
func (d *daemon) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(metrics.Source{Status: d.status, Hub: d.hub}, d.log))
	if err := metrics.Serve(ctx, d.metrics, mux, d.log); err != nil {
		d.log.Error("metrics failed", "err", err)
	}
	return nil
}
