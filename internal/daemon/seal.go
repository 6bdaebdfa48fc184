// SPDX-License-Identifier: Apache-2.0

package daemon

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
	"sotto/internal/config"
	"sotto/internal/observe"
	"sotto/internal/pathtest"
	"sotto/internal/takeover"
)

// seal is an intercept instance and the resolver that answers the queries it redirects.
type seal struct {
	inst      *intercept.Instance
	resolver  *resolver
	keepHooks func() bool // reports whether a clean stop leaves the hooks; nil: it does not

	repeater    *repeater // nil: the kernel does not answer, because of withoutHits
	withoutHits string

	// isShared reports whether another process answers on the same sockets, and continues to.
	// nil: none does.
	isShared func() bool

	beforeDetach func() // nil, or called before the hooks are detached by a clean stop

	sockets *forwarder.Sockets // of the listener; nil until listen
	pauses  chan pauseRequest  // see pause
	conns   chan clientConn    // from the predecessor
}

// clientConn is a client's connection from the predecessor, with the bytes that were read
// from it.
type clientConn struct {
	c    *net.TCPConn
	read []byte
}

// pauseRequest is a request to stop reconciling the state in the kernel until resume is closed.
type pauseRequest struct{ paused, resume chan struct{} }

// listenPort is the port of the listener in its network namespace, on all addresses of the
// virtual prefixes.
const listenPort = 53

// listenSockets returns the number of sockets that the listener opens for each of IPv4 and IPv6
// over UDP and TCP, on a machine with so many processors. All of them can be handed over.
func listenSockets(processors int) int { return min(processors, takeover.MaxSockets/4) }

// openSeal creates everything but the hooks: no query is redirected before the instance is
// attached. The caller closes the seal.
func openSeal(ctx context.Context, p config.Plan, cfg intercept.Config, hub *observe.Hub, log *slog.Logger) (_ *seal, err error) {
	s := &seal{pauses: make(chan pauseRequest), conns: make(chan clientConn)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	domains := startDomains(ctx, p)
	cfg.Log = log
	cfg.OnNetworkChange = func() { // called by Run only
		s.resolver.NetworkChanged()
		s.repeater.forget(true)
	}
	if hub != nil {
		cfg.OnDrop = func(d intercept.Drop) { showDrop(s.inst, cfg.Attribution, hub, &d) } // called by Run only
	}
	if hub != nil {
		s.repeater = &repeater{seal: s, hub: hub}
		if cfg.Hits, s.withoutHits = s.repeater.hitsConfig(p); cfg.Hits == nil {
			s.repeater = nil
		}
	}
	if s.inst, err = intercept.Open(ctx, cfg); err != nil {
		return nil, err
	}
	hooks := sealHooks{origin: s.origin, control: s.inst.Control, isLocal: s.inst.IsLocal, openLocal: s.openLocal, repeater: s.repeater}
	if s.resolver, err = newResolver(ctx, p, hooks, hub, log); err != nil {
		return nil, err
	}
	s.resolver.locals.setDomains(<-domains)
	return s, nil
}

// origin returns the original destination that a virtual address stands for, and the
// workload that queried it, or on whose behalf a container engine did.
func (s *seal) origin(local netip.Addr) (forwarder.Origin, bool) {
	if local.IsLoopback() { // of the network namespace: only the watchdog's queries
		return forwarder.Origin{Virtual: local}, true
	}
	o, ok := s.inst.Origin(local)
	if !ok {
		return forwarder.Origin{}, false
	}
	workload, known := s.inst.Workload(o.CgroupID)
	// The path test opens sockets in the containers' network namespaces, like an engine.
	if owner, ok := s.inst.Owner(o); ok && known && !pathtest.IsProbe(workload) {
		workload = owner
	}
	return forwarder.Origin{Addr: o.Addr, Workload: workload, Removed: !known, Cgroup: o.CgroupID, Netns: o.Netns, Virtual: local}, true
}

// openLocal runs open, which opens a socket to the local resolver at the original destination
// o and connects it.
func (s *seal) openLocal(o forwarder.Origin, open func() error) error {
	return s.inst.DoLocal(intercept.Origin{Addr: o.Addr, CgroupID: o.Cgroup, Netns: o.Netns}, open)
}

// listen opens the listener's sockets in the network namespace, unless the predecessor has
// handed them over.
func (s *seal) listen(ctx context.Context) error {
	if s.sockets != nil {
		return nil
	}
	// Shared: a predecessor that could not hand over its sockets may still have them.
	err := s.inst.Do(func() (err error) {
		s.sockets, err = forwarder.ListenShared(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), listenPort), listenSockets(runtime.GOMAXPROCS(0)))
		return err
	})
	if err != nil {
		return fmt.Errorf("listen in the network namespace: %w", err)
	}
	return nil
}

// run answers queries and reconciles the state in the kernel until ctx ends. Then it detaches
// the hooks before it closes the listener. It calls live once, when queries would be
// answered, to attach the hooks; live may run until its context ends. An error of live is a
// failure: the hooks stay attached, if they are. They also stay if the context has a cause
// of its own: see [stopped].
func (s *seal) run(ctx context.Context, live func(context.Context) error) error {
	if err := s.listen(ctx); err != nil {
		return err
	}
	serving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	g, failing := errgroup.WithContext(ctx)
	g.Go(func() error { return s.resolver.Run(serving) })
	g.Go(func() error { return s.resolver.Serve(serving, s.sockets) })
	g.Go(func() error { return s.reconcile(failing) })
	g.Go(func() error { return s.serveConns(serving) })
	if s.repeater != nil {
		g.Go(func() error { return s.repeater.run(serving) })
	}
	g.Go(func() error { return live(failing) })
	g.Go(func() error {
		<-failing.Done()
		defer func() { stop(s.stopCause(failing)) }()
		if ctx.Err() == nil || !stopped(ctx) || s.keepHooks != nil && s.keepHooks() {
			return nil // a failure, or the seal belongs to another process or stays closed
		}
		if s.beforeDetach != nil {
			s.beforeDetach()
		}
		return s.inst.Detach()
	})
	return g.Wait()
}

// stopCause returns the cause with which the listener stops, after ctx has ended.
func (s *seal) stopCause(ctx context.Context) error {
	cause := context.Cause(ctx)
	if s.isShared != nil && s.isShared() {
		return fmt.Errorf("%w: %w", &forwarder.Withdrawal{Wait: s.resolver.groups.queryTime()}, cause)
	}
	return cause
}

// serveConns serves connections from the predecessor until ctx ends.
func (s *seal) serveConns(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		select {
		case c := <-s.conns:
			conns.Go(func() { s.resolver.ServeConn(ctx, c.c, c.read) })
		case <-ctx.Done():
			return nil
		}
	}
}

// reconcile runs the instance until ctx ends, except during pauses.
func (s *seal) reconcile(ctx context.Context) error {
	for {
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- s.inst.Run(running) }()
		var p pauseRequest
		select {
		case err := <-done:
			stop()
			return err
		case p = <-s.pauses:
		}
		stop()
		if err := <-done; err != nil {
			return err
		}
		close(p.paused)
		if err := s.heartbeat(ctx, p); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// heartbeatInterval is the pause between heartbeats while the instance does not run.
const heartbeatInterval = time.Second

// heartbeat sends heartbeats until p or ctx ends. Without them a seal that opens after a
// crash (on-exit = "open") would open while another process takes long to take over.
func (s *seal) heartbeat(ctx context.Context, p pauseRequest) error {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.resume:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.inst.Heartbeat(); err != nil {
			return err
		}
	}
}

// pause stops reconciling until resume is called.
func (s *seal) pause(ctx context.Context) (resume func(), err error) {
	p := pauseRequest{make(chan struct{}), make(chan struct{})}
	select {
	case s.pauses <- p:
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

// Close removes everything.
func (s *seal) Close() error { return s.closeWith((*intercept.Instance).Close) }

// abandon releases what belongs to the process and leaves the hooks in place, so that queries
// fail instead of leaving in plain text.
func (s *seal) abandon() error { return s.closeWith((*intercept.Instance).Abandon) }

// closeWith closes the resolver first, because its connections use the instance.
func (s *seal) closeWith(closeInstance func(*intercept.Instance) error) error {
	var errs []error
	if s.resolver != nil {
		errs = append(errs, s.resolver.Close())
	}
	if s.inst != nil {
		errs = append(errs, closeInstance(s.inst))
	}
	return errors.Join(errs...)
}
