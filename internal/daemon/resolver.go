// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/plain"
	"sotto/forwarder/shared"
	"sotto/forwarder/shared/redis"
	"sotto/forwarder/tap"
	"sotto/internal/config"
	"sotto/internal/kubernetes/pods"
	"sotto/internal/observe"
	"sotto/internal/pathtest"
	"sotto/internal/resolved"
)

// resolver is a forwarder with its cache and its upstream groups.
type resolver struct {
	*forwarder.Forwarder
	groups  *groups
	plain   *plain.Client // nil for `serve`
	cache   *cache.Cache
	shared  *shared.Cache      // nil if there is none
	store   *redis.Store       // of shared
	changes chan changeRequest // handled by Run
	locals  locals
	repeats *repeater   // nil if the kernel does not answer
	pods    *pods.Index // of Kubernetes
	log     *slog.Logger
}

// changeRequest is a request to put another plan in force.
type changeRequest struct {
	plan config.Plan
	done chan<- error
}

// sealHooks are the functions of the seal that the resolver uses. All are nil for `serve`.
type sealHooks struct {
	origin  func(netip.Addr) (forwarder.Origin, bool)
	control func(network, address string, c syscall.RawConn) error

	isLocal   func(netip.Addr) bool
	openLocal func(o forwarder.Origin, open func() error) error

	repeater *repeater // nil: the kernel does not answer
}

// newResolver creates the resolver that a plan describes. It does not connect to anything,
// so the network may come up later. hub counts its queries; nil: they are not counted. The
// caller closes it; ctx should last as long as Serve.
func newResolver(ctx context.Context, p config.Plan, h sealHooks, hub *observe.Hub, log *slog.Logger) (_ *resolver, err error) {
	r := &resolver{groups: newGroups(ctx, h.control, log), changes: make(chan changeRequest), pods: pods.New("", log), log: log}
	r.locals.isLocal, r.repeats = h.isLocal, h.repeater
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if hub != nil {
		r.groups.tap = hub.Tap
	}
	table, err := r.groups.prepare(p.Groups)
	if err != nil {
		return nil, err
	}
	r.groups.commit(table)
	if p.Cache.MaxBytes > 0 {
		if r.cache, err = cache.New(p.Cache); err != nil {
			return nil, err
		}
	}
	if p.Shared != nil {
		r.store = redis.New(redis.Config{Address: p.Shared.Address, Username: p.Shared.Username, Password: p.Shared.Password,
			Database: p.Shared.Database, TLS: p.Shared.TLS, Control: h.control})
		r.shared, err = shared.New(shared.Config{Store: r.store, Prefix: p.Shared.Prefix, Secret: p.Shared.Secret,
			Timeout: p.Shared.Timeout, MaxAnswer: p.Shared.MaxAnswer, Log: log})
		if err != nil {
			return nil, err
		}
	}
	cfg := forwarder.Config{
		Upstream: table[config.DefaultGroup], // unused: the router returns one for every query
		Route:    r.router(p, table),
		Cache:    r.cache, Shared: r.shared, Origins: h.origin, Log: log,
		MaxMisses: p.MaxQueries, MaxWaiters: p.MaxWaiting, MaxRelays: p.MaxRelays, MaxConns: p.MaxTCP,
	}
	if h.control != nil {
		// Without the mark that control sets, the hooks would redirect these queries again.
		r.plain = plain.New(plain.Config{Control: h.control, Log: log})
		cfg.Nameserver = r.plain
		cfg.Local = func(o forwarder.Origin) forwarder.Nameserver {
			return plain.New(plain.Config{Control: h.control, Log: log, Open: func(open func() error) error { return h.openLocal(o, open) }})
		}
	}
	if r.repeats != nil {
		r.repeats.configure(p)
		cfg.Repeats = r.repeats.seal.inst.HitClass
	}
	cfg.Observe = observer(p, hub, log)
	if hub != nil {
		cfg.Tap = withoutProbes(hub)
		cfg.Dropped = func(e forwarder.Event) {
			if !pathtest.IsProbe(e.Origin.Workload) && !hub.IsOwn(e.Client) {
				hub.Dropped(e)
			}
		}
	}
	if r.Forwarder, err = forwarder.New(ctx, cfg); err != nil {
		return r, err
	}
	r.SetFixedOrder(p.FixedOrder)
	return r, nil
}

// Run keeps the connections of the groups warm, and applies changes, until ctx ends.
func (r *resolver) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	start := func() {
		r.groups.start(ctx, func(inForce context.Context, m *member) { g.Go(func() error { return m.run(ctx, inForce) }) })
	}
	start()
	g.Go(func() error { return tuneGC(ctx) })
	g.Go(func() error { return r.pods.Run(ctx) })
	if r.shared != nil {
		g.Go(func() error { return r.shared.Run(ctx) })
	}
	if r.locals.isLocal != nil {
		g.Go(func() error {
			resolved.Watch(ctx, r.locals.setDomains)
			return nil
		})
	}
	g.Go(func() error {
		return watchSuspend(ctx, r.log, suspendInterval, suspended, r.NetworkChanged)
	})
	g.Go(func() error {
		for {
			select {
			case c := <-r.changes:
				c.done <- r.apply(c.plan, start)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// NetworkChanged handles a change of addresses or routes.
func (r *resolver) NetworkChanged() {
	r.groups.NetworkChanged()
	if r.plain != nil {
		r.plain.NetworkChanged()
	}
	r.Forwarder.NetworkChanged()
	if r.groups.dependent.Load() && r.flushNetwork() > 0 {
		r.repeats.forget(false)
	}
}

// flushNetwork removes the answers that depend on the network, and returns their number.
func (r *resolver) flushNetwork() int {
	if r.cache == nil {
		return 0
	}
	return r.cache.FlushScopes(dependsOnNetwork)
}

// change puts the plan p in force, while Run runs. After an error nothing has changed.
func (r *resolver) change(ctx context.Context, p config.Plan) error {
	done := make(chan error, 1)
	select {
	case r.changes <- changeRequest{p, done}:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply does first what can fail. It swaps the router in one step, so that each query is
// answered by the old plan or by the new one.
func (r *resolver) apply(p config.Plan, start func()) error {
	table, err := r.groups.prepare(p.Groups)
	if err != nil {
		return err
	}
	if r.cache != nil {
		if err := r.cache.Configure(p.Cache); err != nil {
			return errors.Join(err, table.discard())
		}
	}
	retired := r.groups.commit(table)
	start()
	r.repeats.configure(p)
	r.SetRouter(r.router(p, table))
	r.SetFixedOrder(p.FixedOrder)
	r.repeats.forget(true)
	for _, m := range retired {
		m.retire()
	}
	return nil
}

// Close aborts queries in flight and releases everything.
func (r *resolver) Close() error {
	var errs []error
	if r.Forwarder != nil {
		errs = append(errs, r.Forwarder.Close())
	}
	errs = append(errs, r.groups.Close())
	if r.plain != nil {
		r.plain.Close()
	}
	if r.store != nil {
		errs = append(errs, r.store.Close())
	}
	if r.cache != nil {
		r.cache.Close()
	}
	return errors.Join(errs...)
}

// withoutProbes returns the tap of hub, which may be nil, without the messages of the path test
// and of the watchdog.
func withoutProbes(hub *observe.Hub) tap.Func {
	if hub.Tap == nil {
		return nil
	}
	return func(m tap.Message) {
		if !pathtest.IsProbe(m.Workload) && !hub.IsOwn(m.Querier) {
			hub.Tap(m)
		}
	}
}

// observer returns the function that receives every query: hub, which may be nil, and the log
// if the plan says so. The queries of the path test and of the watchdog are none of a workload.
func observer(p config.Plan, hub *observe.Hub, log *slog.Logger) func(forwarder.Event) {
	if hub == nil && !p.LogQueries {
		return nil
	}
	return func(e forwarder.Event) {
		if pathtest.IsProbe(e.Origin.Workload) || hub.IsOwn(e.Client) {
			return
		}
		if hub != nil {
			hub.Observe(e)
		}
		if p.LogQueries {
			logQuery(log, hub, e)
		}
	}
}

func logQuery(log *slog.Logger, hub *observe.Hub, e forwarder.Event) {
	r := observe.NewRecord(&e, time.Now())
	attrs := []any{"name", r.Name, "type", r.Type, "rcode", r.Rcode, "proto", r.Proto, "client", r.Client,
		"source", r.Source, "ms", e.Duration.Milliseconds()}
	if r.Nameserver.IsValid() {
		attrs = append(attrs, "nameserver", r.Nameserver, "workload", r.Workload)
	}
	if hub != nil {
		if name := hub.WorkloadName(r.Workload); name != "" {
			attrs = append(attrs, "workload_name", name)
		}
	}
	if e.Err != nil {
		attrs = append(attrs, "err", e.Err)
	}
	log.Info("query", attrs...)
}
