// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os/signal"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/forwarder"
	"sotto/internal/config"
	"sotto/internal/privdrop"
)

// Serve answers queries on the listen addresses of the configuration until SIGINT or SIGTERM.
func Serve(ctx context.Context, o Options) (err error) {
	hup := catchReloads()
	defer signal.Stop(hup)
	_, p, err := o.Load()
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
	var bound []*forwarder.Sockets
	for _, a := range p.Listen {
		sockets, err := forwarder.Listen(ctx, a, runtime.GOMAXPROCS(0))
		if err != nil {
			return errors.Join(err, closeAll(bound))
		}
		d.log.Info("answering", "address", netip.AddrPortFrom(a.Addr(), sockets.Addr().Port()))
		bound = append(bound, sockets)
	}
	if err := d.listen(ctx, false); err != nil {
		return errors.Join(err, closeAll(bound))
	}
	defer d.close()
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	o.dropPrivileges(d.log, nil, privdrop.Kernel()...)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.resolver.Run(ctx) })
	g.Go(func() error { return d.run(ctx, hup) })
	for _, sockets := range bound {
		g.Go(func() error { return d.resolver.Serve(ctx, sockets) })
	}
	notify(o.NotifySocket, stateReady)
	if err := g.Wait(); err != nil {
		return err
	}
	d.saveCache()
	return nil
}

func closeAll(all []*forwarder.Sockets) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
