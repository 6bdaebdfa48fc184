// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"syscall"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/plain"
	"sotto/forwarder/wire"
)

// resolver is the DNS half of every verb: a forwarder with its cache and its
// upstream groups.
type resolver struct {
	*forwarder.Forwarder
	groups *groups
	cache  *cache.Cache
	asked  chan change // of Run
	log    *slog.Logger
}

// change asks [resolver.Run] for what another plan describes.
type change struct {
	to   plan
	done chan<- error
}

// seam is what the kernel half gives the DNS half. Both are nil for `serve`.
type seam struct {
	origins func(netip.Addr) (forwarder.Origin, bool)
	control func(network, address string, c syscall.RawConn) error
}

// newResolver builds what a plan describes. It asks nobody yet: a machine whose
// network comes up later is no error. The caller closes it; ctx should outlive
// the serving.
func newResolver(ctx context.Context, p plan, k seam, log *slog.Logger) (_ *resolver, err error) {
	r := &resolver{groups: newGroups(k.control, log), asked: make(chan change), log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	table, err := r.groups.prepare(p.groups)
	if err != nil {
		return nil, err
	}
	r.groups.commit(table)
	if p.cache.MaxBytes > 0 {
		if r.cache, err = cache.New(p.cache); err != nil {
			return nil, err
		}
	}
	cfg := forwarder.Config{
		Upstream: table[defaultGroup], // the router names one for every query
		Route:    newRouter(p.rules, table),
		Cache:    r.cache, Origins: k.origins, Log: log,
		MaxMisses: p.maxQueries, MaxWaiters: p.maxWaiting, MaxConns: p.maxTCP,
	}
	if k.control != nil {
		// Only what leaves a marked socket would not be caught again.
		cfg.Nameserver = plain.New(plain.Config{Control: k.control, Log: log})
	}
	if p.logQueries {
		cfg.Observe = logQueries(log)
	}
	r.Forwarder, err = forwarder.New(ctx, cfg)
	return r, err
}

// Run keeps the groups' connections, and makes the changes that are asked for,
// until ctx ends.
func (r *resolver) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	start := func() {
		r.groups.start(ctx, func(inForce context.Context, m *member) { g.Go(func() error { return m.run(ctx, inForce) }) })
	}
	start()
	g.Go(func() error { return tuneCollector(ctx) })
	g.Go(func() error { return watchSleep(ctx, r.log, sleepCheck, slept, r.groups.NetworkChanged) })
	g.Go(func() error {
		for {
			select {
			case c := <-r.asked:
				c.done <- r.apply(c.to, start)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// change has what p describes take the place of what is in force, while Run
// runs. With an error everything is as it was.
func (r *resolver) change(ctx context.Context, p plan) error {
	done := make(chan error, 1)
	select {
	case r.asked <- change{p, done}:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply makes what can fail first. The router is swapped in one step: each query
// is answered by the old plan or by the new one.
func (r *resolver) apply(p plan, start func()) error {
	table, err := r.groups.prepare(p.groups)
	if err != nil {
		return err
	}
	if r.cache != nil {
		if err := r.cache.Configure(p.cache); err != nil {
			return errors.Join(err, table.closeNew())
		}
	}
	retired := r.groups.commit(table)
	start()
	r.SetRouter(newRouter(p.rules, table))
	for _, m := range retired {
		m.retire()
	}
	return nil
}

// Close ends what is in flight and frees everything.
func (r *resolver) Close() error {
	var errs []error
	if r.Forwarder != nil {
		errs = append(errs, r.Forwarder.Close())
	}
	errs = append(errs, r.groups.Close())
	if r.cache != nil {
		r.cache.Close()
	}
	return errors.Join(errs...)
}

// logQueries returns an observer that writes a line a query.
func logQueries(log *slog.Logger) func(forwarder.Event) {
	return func(ev forwarder.Event) {
		proto := "udp"
		if ev.TCP {
			proto = "tcp"
		}
		attrs := []any{"name", ev.Name, "type", wire.TypeName(ev.Type), "rcode", wire.RcodeName(ev.Rcode),
			"proto", proto, "client", ev.Client, "cached", ev.Cached, "ms", ev.Duration.Milliseconds()}
		if ev.Origin.Addr.IsValid() {
			attrs = append(attrs, "nameserver", ev.Origin.Addr, "workload", ev.Origin.Workload)
		}
		if ev.Err != nil {
			attrs = append(attrs, "err", ev.Err)
		}
		log.Info("query", attrs...)
	}
}
