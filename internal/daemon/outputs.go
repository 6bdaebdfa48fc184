// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sync/errgroup"

	"sotto/internal/config"
	"sotto/internal/dnstap"
	"sotto/internal/observe"
	"sotto/internal/querylog"
	"sotto/internal/status"
)

// outputs record queries: the query log and dnstap. Both are nil if they are not configured.
type outputs struct {
	plan  config.Plan
	log   *slog.Logger
	query *querylog.Log
	tap   *dnstap.Tap
}

// openOutputs opens the files of a plan, while the process has all privileges, and makes hub
// pass on queries and messages. The caller calls close.
func openOutputs(p config.Plan, version string, stderr io.Writer, hub *observe.Hub, log *slog.Logger) (o *outputs, err error) {
	o = &outputs{plan: p, log: log}
	if q := p.QueryLog; q.File != "" {
		cfg := querylog.Config{Path: q.File, Sample: q.Sample, HashNames: q.HashNames, WorkloadName: hub.WorkloadName, Log: log}
		if q.File == config.QueryLogStderr {
			cfg.Writer = stderr
		}
		if o.query, err = querylog.Open(cfg); err != nil {
			return nil, err
		}
		hub.Log = o.query.Observe
	}
	if t := p.Dnstap; t.On() {
		o.tap, err = dnstap.Open(dnstap.Config{
			File: t.File, Socket: t.Socket, Client: t.Client, Forwarder: t.Forwarder, TLSAsTCP: t.TLSAsTCP,
			Identity: tapIdentity(t), Version: "sotto " + version, WorkloadName: hub.WorkloadName, Log: log,
		})
		if err != nil {
			return nil, errors.Join(err, o.close())
		}
		hub.Tap = o.tap.Message
	}
	return o, nil
}

// tapIdentity returns the name of this machine in dnstap. An empty one is valid.
func tapIdentity(t config.Dnstap) string {
	if t.Identity == "" {
		name, _ := os.Hostname()
		return name
	}
	return t.Identity
}

// run writes until ctx is canceled.
func (o *outputs) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if o.query != nil {
		g.Go(func() error { return o.query.Run(ctx) })
	}
	if o.tap != nil {
		g.Go(func() error { return o.tap.Run(ctx) })
	}
	return g.Wait()
}

// reopen opens the files again that were renamed or removed, while run runs. After an error the
// old one stays in use.
func (o *outputs) reopen(ctx context.Context) error {
	var errs []error
	if o.query != nil {
		errs = append(errs, o.query.Reopen(ctx))
	}
	if o.tap != nil {
		errs = append(errs, o.tap.Reopen(ctx))
	}
	err := errors.Join(errs...)
	if err != nil {
		o.log.Error("cannot reopen: the old file stays in use", "err", err)
	}
	return err
}

// close writes what is left, after the last query, and closes the files.
func (o *outputs) close() error {
	var errs []error
	if o.query != nil {
		errs = append(errs, o.query.Close())
	}
	if o.tap != nil {
		errs = append(errs, o.tap.Close())
	}
	return errors.Join(errs...)
}

// status describes the outputs.
func (o *outputs) status() (list []status.Output) {
	if o.query != nil {
		s := o.query.Stats()
		list = append(list, status.Output{Kind: "query log", Target: o.plan.QueryLog.File, Written: s.Written, Lost: s.Lost})
	}
	if o.tap == nil {
		return list
	}
	if s, ok := o.tap.FileStats(); ok {
		list = append(list, status.Output{Kind: "dnstap", Target: o.plan.Dnstap.File, Written: s.Written, Lost: s.Lost})
	}
	if s, ok := o.tap.SocketStats(); ok {
		list = append(list, status.Output{Kind: "dnstap", Target: o.plan.Dnstap.Socket, Written: s.Written, Lost: s.Lost})
	}
	return list
}
