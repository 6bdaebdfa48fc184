// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/forwarder"
	"sotto/internal/config"
	"sotto/internal/privdrop"
	"sotto/internal/service"
)

// Serve answers queries on the listen addresses of the configuration until SIGINT or SIGTERM, and
// after that for the time of the setting drain, while it is not ready.
func Serve(ctx context.Context, o Options) (err error) {
	hup := catchReloads()
	defer signal.Stop(hup)
	s, p, err := o.Load()
	if err != nil {
		return err
	}
	d, err := newDaemon(o, p, func(p config.Plan) []setting { return []setting{{"listen", p.Listen}} })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.outputs.close()) }()
	if d.resolver, err = newResolver(ctx, p, sealHooks{}, d.hub, d.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.resolver.Close()) }()
	d.loadCache()
	bound, err := d.bind(ctx, !slices.Equal(s.Listen, config.Default().Listen))
	if err != nil {
		return err
	}
	d.probeHost = dialListener(bound[0].Addr())
	if err := d.listen(ctx, false); err != nil {
		return errors.Join(err, closeAll(bound))
	}
	defer d.close()
	ctx, stop := d.drainOnStop(ctx)
	defer stop()
	o.dropPrivileges(d.log, privdrop.Limits{Keep: serveCapabilities(p), Deny: privdrop.Kernel()})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.resolver.Run(ctx) })
	g.Go(func() error { return d.run(ctx, hup) })
	for _, sockets := range bound {
		g.Go(func() error { return d.resolver.Serve(ctx, sockets) })
	}
	service.Notify(o.NotifySocket, service.Ready)
	if err := g.Wait(); err != nil {
		return err
	}
	d.saveCache()
	return nil
}

// drainOnStop returns a context that ends after SIGINT or SIGTERM, when the time of the setting
// drain is over, or with a second signal. The caller calls stop.
func (d *daemon) drainOnStop(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	drain := d.plan.Drain // a reload cannot change it, but replaces the plan
	go func() {
		defer cancel()
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		if drain == 0 {
			return
		}
		d.draining.Store(true)
		service.Notify(d.NotifySocket, service.Stopping)
		d.log.Info("stopping: not ready any more, and answering until clients have moved to another instance", "drain", drain)
		d.resolver.Drain()
		t := time.NewTimer(drain)
		defer t.Stop()
		select {
		case <-t.C:
		case <-signals:
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel() }
}

// bind returns the sockets that the service manager passed or, without one, opens those of the
// configuration. named is set if that names others than the default.
func (d *daemon) bind(ctx context.Context, named bool) (bound []*forwarder.Sockets, err error) {
	if len(d.Sockets) > 0 {
		if named {
			d.log.Warn("listen has no effect: the service manager passes the sockets; change them in its unit (systemctl edit sotto-serve.socket)")
		}
		s, err := forwarder.Inherit(d.Sockets)
		if err != nil {
			return nil, err
		}
		d.log.Info("answering on sockets of the service manager", "addresses", s.Addrs())
		return []*forwarder.Sockets{s}, nil
	}
	all := d.current().Listen
	for i, a := range all {
		listen := forwarder.Listen
		if overlap(a, all[:i]) {
			listen = forwarder.ListenShared
		}
		sockets, err := listen(ctx, a, runtime.GOMAXPROCS(0))
		if errors.Is(err, unix.EADDRINUSE) {
			err = fmt.Errorf("%w: another program has this port (\"ss -lnptu sport = :%d\" shows which): stop it, or set another port with listen", err, a.Port())
		}
		if err != nil {
			return nil, errors.Join(err, closeAll(bound))
		}
		d.log.Info("answering", "address", netip.AddrPortFrom(a.Addr(), sockets.Addr().Port()))
		bound = append(bound, sockets)
	}
	return bound, nil
}

// overlap reports whether a socket of one of the others could get queries for a: an address may be listed twice, or be part of
// an unspecified one.
func overlap(a netip.AddrPort, others []netip.AddrPort) bool {
	return slices.ContainsFunc(others, func(o netip.AddrPort) bool {
		return o.Port() == a.Port() && (o.Addr() == a.Addr() || o.Addr().IsUnspecified() || a.Addr().IsUnspecified())
	})
}

func closeAll(all []*forwarder.Sockets) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
