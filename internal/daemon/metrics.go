// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net/http"

	"golang.org/x/sync/errgroup"

	"sotto/internal/metrics"
	"sotto/internal/status"
	"sotto/internal/webpage"
)

// serveMetrics serves metrics and the web page until ctx ends. A failure is logged only: queries
// are answered without them.
func (d *daemon) serveMetrics(ctx context.Context) error {
	history := webpage.NewHistory(webpage.Source{
		Status: d.status, Groups: func() []status.Group { return d.groupStatuses(d.current()) }, Hub: d.hub,
	})
	mux := http.NewServeMux()
	mux.Handle("/", webpage.Handler(history, d.log))
	mux.HandleFunc("GET /ready", d.handleReady)
	mux.Handle("GET /metrics", metrics.Handler(metrics.Source{Status: d.status, Hub: d.hub}, d.log))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		history.Run(ctx)
		return nil
	})
	g.Go(func() error {
		if err := metrics.Serve(ctx, d.metrics, mux, d.log); err != nil {
			d.log.Error("metrics failed", "err", err)
		}
		return nil
	})
	return g.Wait()
}
