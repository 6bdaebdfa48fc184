// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder"
	"sotto/intercept"
)

// seal is an intercept instance and the resolver that answers what it catches.
type seal struct {
	inst *intercept.Instance
	r    *resolver
}

// listenPort is where the listener waits in its namespace, at every address of
// the virtual prefixes.
const listenPort = 53

// openSeal makes everything but the hooks: nothing is caught before
// [seal.attach]. The caller closes it.
func openSeal(ctx context.Context, s settings, cfg intercept.Config, log *slog.Logger) (_ *seal, err error) {
	l := &seal{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	// What a person got wrong is said before anything is made.
	if _, err := upstreamConfig(s); err != nil {
		return nil, err
	}
	cfg.Log = log
	cfg.OnNetworkChange = func() { l.r.upstreams.NetworkChanged() } // called from Run
	if l.inst, err = intercept.Open(ctx, cfg); err != nil {
		return nil, err
	}
	l.r, err = newResolver(ctx, s, seam{origins: l.origin, control: l.inst.Control}, log)
	return l, err
}

// origin joins the halves: which nameserver a virtual address stands for, and
// for whom.
func (l *seal) origin(local netip.Addr) (forwarder.Origin, bool) {
	o, ok := l.inst.Origin(local)
	if !ok {
		return forwarder.Origin{}, false
	}
	return forwarder.Origin{Addr: o.Addr, Workload: l.inst.Workload(o.CgroupID)}, true
}

// listen opens the listener's sockets inside the namespace.
func (l *seal) listen(ctx context.Context) (*forwarder.Sockets, error) {
	var sockets *forwarder.Sockets
	err := l.inst.Do(func() (err error) {
		sockets, err = forwarder.Listen(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), listenPort), runtime.GOMAXPROCS(0))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in the namespace: %w", err)
	}
	return sockets, nil
}

// run answers and keeps the machine's side in order until ctx ends. live is
// called once, when queries would be answered: the moment to attach the hooks.
func (l *seal) run(ctx context.Context, live func() error) error {
	sockets, err := l.listen(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.r.upstreams.Run(ctx) })
	g.Go(func() error { return l.inst.Run(ctx) })
	g.Go(func() error { return l.r.Serve(ctx, sockets) })
	g.Go(live)
	return g.Wait()
}

// Close takes everything away. The resolver goes first: its dials use the
// instance.
func (l *seal) Close() error {
	var errs []error
	if l.r != nil {
		errs = append(errs, l.r.Close())
	}
	if l.inst != nil {
		errs = append(errs, l.inst.Close())
	}
	return errors.Join(errs...)
}
