// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder"
	"sotto/intercept"
)

// seal is an intercept instance and the resolver that answers what it catches.
type seal struct {
	inst *intercept.Instance
	r    *resolver
	stay bool // the hooks stay when it ends

	sockets *forwarder.Sockets // the listener's, from before run or by it
	pauses  chan pause         // of keeping the machine's side in order
	given   chan given         // connections that another process handed over
}

// given is a client's connection, and what was read of it already.
type given struct {
	c    *net.TCPConn
	read []byte
}

// pause has nobody keep the machine's side in order until resume is closed.
type pause struct{ paused, resume chan struct{} }

// listenPort is where the listener waits in its namespace, at every address of
// the virtual prefixes.
const listenPort = 53

// openSeal makes everything but the hooks: nothing is caught before
// [seal.attach]. The caller closes it.
func openSeal(ctx context.Context, p plan, cfg intercept.Config, log *slog.Logger) (_ *seal, err error) {
	l := &seal{pauses: make(chan pause), given: make(chan given)}
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
	workload, known := l.inst.Workload(o.CgroupID)
	return forwarder.Origin{Addr: o.Addr, Workload: workload, Removed: !known}, true
}

// listen opens the listener's sockets inside the namespace, unless there are some.
func (l *seal) listen(ctx context.Context) error {
	if l.sockets != nil {
		return nil
	}
	err := l.inst.Do(func() (err error) {
		l.sockets, err = forwarder.Listen(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), listenPort), runtime.GOMAXPROCS(0))
		return err
	})
	if err != nil {
		return fmt.Errorf("listen in the namespace: %w", err)
	}
	return nil
}

// run answers and keeps the machine's side in order until ctx ends; then the hooks
// go before the listener does. live is called once, when queries would be answered:
// the moment to attach the hooks; it may go on until its context ends. An error that
// it returns is a failure that nobody asked for, and the hooks, if they were attached,
// still are. They stay too where ctx has a cause of its own: see [stopped].
func (l *seal) run(ctx context.Context, live func(context.Context) error) error {
	if err := l.listen(ctx); err != nil {
		return err
	}
	serving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	g, failing := errgroup.WithContext(ctx)
	g.Go(func() error { return l.r.Run(serving) })
	g.Go(func() error { return l.r.Serve(serving, l.sockets) })
	g.Go(func() error { return l.keepInOrder(failing) })
	g.Go(func() error { return l.serveGiven(serving) })
	g.Go(func() error { return live(failing) })
	g.Go(func() error {
		<-failing.Done()
		defer func() { stop(context.Cause(failing)) }()
		if ctx.Err() == nil || l.stay || !stopped(ctx) {
			return nil // a failure, or the hooks are to stay, or they are another process's
		}
		return l.inst.Detach()
	})
	return g.Wait()
}

// serveGiven answers on the connections that come, until ctx ends.
func (l *seal) serveGiven(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		select {
		case g := <-l.given:
			conns.Go(func() { l.r.ServeConn(ctx, g.c, g.read) })
		case <-ctx.Done():
			return nil
		}
	}
}

// keepInOrder runs the instance until ctx ends, but for pauses.
func (l *seal) keepInOrder(ctx context.Context) error {
	for {
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- l.inst.Run(running) }()
		var p pause
		select {
		case err := <-done:
			stop()
			return err
		case p = <-l.pauses:
		}
		stop()
		if err := <-done; err != nil {
			return err
		}
		close(p.paused)
		if err := l.rest(ctx, p); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// rest only lives, until p or ctx ends.
func (l *seal) rest(ctx context.Context, p pause) error {
	tick := time.NewTicker(signOfLife)
	defer tick.Stop()
	for {
		select {
		case <-p.resume:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := l.inst.Heartbeat(); err != nil {
			return err
		}
	}
}

// signOfLife is the pause between two while nothing is kept in order: a start by
// another process that takes long must not open a seal that opens when nobody lives.
const signOfLife = time.Second

// pause has the machine's side not be kept in order until resume is called.
func (l *seal) pause(ctx context.Context) (resume func(), err error) {
	p := pause{make(chan struct{}), make(chan struct{})}
	select {
	case l.pauses <- p:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-p.paused:
		return func() { close(p.resume) }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// handedOver tells whether another process has taken over.
func handedOver(ctx context.Context) bool {
	var h *forwarder.Handover
	return errors.As(context.Cause(ctx), &h)
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
