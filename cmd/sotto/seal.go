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
	stay bool // the hooks stay when it ends
}

// listenPort is where the listener waits in its namespace, at every address of
// the virtual prefixes.
const listenPort = 53

// openSeal makes everything but the hooks: nothing is caught before
// [seal.attach]. The caller closes it.
func openSeal(ctx context.Context, p plan, cfg intercept.Config, log *slog.Logger) (_ *seal, err error) {
	l := &seal{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	cfg.Log = log
	cfg.OnNetworkChange = func() { l.r.groups.NetworkChanged() } // called from Run
	if l.inst, err = intercept.Open(ctx, cfg); err != nil {
		return nil, err
	}
	l.r, err = newResolver(ctx, p, seam{origins: l.origin, control: l.inst.Control}, log)
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

// run answers and keeps the machine's side in order until ctx ends; then the hooks
// go before the listener does. live is called once, when queries would be answered:
// the moment to attach the hooks; it may go on until its context ends. An error that
// it returns is a failure that nobody asked for, and the hooks, if they were attached,
// still are.
func (l *seal) run(ctx context.Context, live func(context.Context) error) error {
	sockets, err := l.listen(ctx)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, failing := errgroup.WithContext(ctx)
	g.Go(func() error { return l.r.Run(serving) })
	g.Go(func() error { return l.r.Serve(serving, sockets) })
	g.Go(func() error { return l.inst.Run(failing) })
	g.Go(func() error { return live(failing) })
	g.Go(func() error {
		<-failing.Done()
		defer stop()
		if ctx.Err() == nil || l.stay {
			return nil // not asked to stop, or told to: stay closed
		}
		return l.inst.Detach()
	})
	return g.Wait()
}

// Close takes everything away.
func (l *seal) Close() error { return l.end((*intercept.Instance).Close) }

// abandon ends the process's part and leaves the hooks, so that queries fail
// rather than leave in the clear.
func (l *seal) abandon() error { return l.end((*intercept.Instance).Abandon) }

// end closes the resolver first: its dials use the instance.
func (l *seal) end(inst func(*intercept.Instance) error) error {
	var errs []error
	if l.r != nil {
		errs = append(errs, l.r.Close())
	}
	if l.inst != nil {
		errs = append(errs, inst(l.inst))
	}
	return errors.Join(errs...)
}
