// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/lists"
	"sotto/internal/metrics"
	"sotto/internal/names"
	"sotto/internal/observe"
	"sotto/internal/privdrop"
	"sotto/internal/probe"
	"sotto/internal/takeover"
)

// Loader reads the configuration file, with the flags of the command line over it.
type Loader func() (config.Settings, config.Plan, error)

// Options describe the process that the package runs in.
type Options struct {
	// Version is the program's version, for the status.
	Version string

	// Load is called at the start and for each reload. [Exec] does not use it.
	Load Loader

	// Logger returns a logger with a level that may change.
	Logger func(slog.Leveler) *slog.Logger

	// Stderr is the standard error stream, for query-log = "stderr".
	Stderr io.Writer

	// NotifySocket is the socket of the service manager ($NOTIFY_SOCKET), or "".
	NotifySocket string

	// Watchdog is the time within which the service manager expects the next keep-alive, or 0.
	Watchdog time.Duration

	// Sockets are passed by the service manager for [Serve], which closes them.
	Sockets []*os.File

	// DropPrivileges is [privdrop.Apply]. It is nil in tests, which keep their privileges.
	DropPrivileges func(privdrop.Limits) error

	// PathTest is the command line that calls [pathtest.Main]. Without it, [Run] does not test
	// whether queries reach it.
	PathTest []string
}

// daemon is the state of a running `run` or `serve`.
type daemon struct {
	Options
	fixed    func(config.Plan) []setting // settings of this command that a reload cannot change
	resolver *resolver
	socket   *control.Listener // nil if there is no control socket
	metrics  net.Listener      // nil if there are no metrics
	log      *slog.Logger
	level    *slog.LevelVar
	hub      *observe.Hub    // all queries
	outputs  *outputs        // query log and dnstap
	recent   *observe.Recent // warnings and errors of log
	names    *names.Resolver // of workloads; nil if they are not looked up
	started  time.Time
	slots    slotCount
	handover *handover // nil if no other process can take over
	pathTest *pathTest // nil if there is none
	probe    *probe.Server
	lists    *lists.Updater
	draining atomic.Bool // `serve` was stopped, and answers for a while

	probeHost dialFunc   // opens connections to the own listener
	ownQuery  ownQueries // of the watchdog

	mu   sync.Mutex  // serializes reloads
	plan config.Plan // see current
}

// newDaemon prepares to run p. The caller sets the resolver, and closes the outputs.
func newDaemon(o Options, p config.Plan, fixed func(config.Plan) []setting) (_ *daemon, err error) {
	d := &daemon{
		Options: o, fixed: fixed, level: &slog.LevelVar{}, plan: p,
		hub: &observe.Hub{}, recent: &observe.Recent{}, started: time.Now(),
	}
	d.hub.Own = d.ownQuery.has
	d.level.Set(p.Level)
	d.log = slog.New(d.recent.Handler(o.Logger(d.level).Handler()))
	d.hub.Watch = d.watch
	d.attribute()
	p.Warn(d.log)
	d.lists = lists.NewUpdater(d.listConfig, d.applyLists, d.log)
	d.outputs, err = openOutputs(p, o.Version, o.Stderr, d.hub, d.log)
	return d, err
}

// current returns the plan in force. A reload may replace it at any time.
func (d *daemon) current() config.Plan {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.plan
}

// catchReloads subscribes to SIGHUP, before there is anything to reload, so that it never
// terminates the process. The caller stops the subscription.
func catchReloads() chan os.Signal {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	return hup
}

// listen opens the sockets for metrics and for control, if the plan has them. shared is set if
// another process may take over, which then has metrics at the same address. The caller calls
// close, unless there is an error.
func (d *daemon) listen(ctx context.Context, shared bool) (err error) {
	if d.plan.Metrics.IsValid() {
		if d.metrics, err = metrics.Listen(ctx, d.plan.Metrics, shared); err != nil {
			return err
		}
		d.log.Info("serving metrics", "address", d.metrics.Addr())
	}
	if d.plan.Control != "" {
		if d.socket, err = control.Listen(ctx, d.plan.Control, d.plan.ControlGroup); err != nil {
			d.close()
		}
	}
	return err
}

// close closes both sockets, if run has not done so.
func (d *daemon) close() {
	if d.metrics != nil {
		_ = d.metrics.Close()
	}
	if d.socket == nil {
		return
	}
	if err := d.socket.Close(); err != nil {
		d.log.Error("cannot remove the control socket", "err", err)
	}
}

// run reloads the configuration on SIGHUP, fetches lists, and serves the control socket, until
// ctx ends.
func (d *daemon) run(ctx context.Context, hup <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
	p := d.current()
	go p.ReadRoots()
	g.Go(func() error { return d.outputs.run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-hup:
				_ = d.reload(ctx) // it logs its error
			case <-ctx.Done():
				return nil
			}
		}
	})
	g.Go(func() error {
		d.pathTest.run(ctx)
		return nil
	})
	g.Go(func() error { return d.lists.Run(ctx) })
	g.Go(func() error {
		d.watchdog(ctx)
		return nil
	})
	if d.handover != nil { // `sotto serve` knows no workloads
		g.Go(func() error {
			d.forgetWorkloads(ctx)
			return nil
		})
		g.Go(func() error {
			tick := time.NewTicker(kubeletInterval)
			defer tick.Stop()
			d.watchKubelet(ctx, tick.C)
			return nil
		})
	}
	if d.metrics != nil {
		g.Go(func() error { return d.serveMetrics(ctx) })
	}
	if d.names != nil {
		g.Go(func() error { return d.names.Run(ctx) })
	}
	if d.socket != nil {
		g.Go(func() error {
			if err := d.serveControl(ctx); err != nil {
				// Queries are still answered.
				d.log.Error("control socket failed; SIGHUP still reloads", "err", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// serveControl serves the control socket until ctx ends, or another process has taken over.
// During a takeover the socket's path belongs to the successor.
func (d *daemon) serveControl(ctx context.Context) (err error) {
	for {
		var successor *takeover.Successor
		serving, stop := context.WithCancel(ctx)
		h := control.Handlers{Reload: d.reload, Routes: d.routes()}
		if d.handover != nil {
			h.Replace = func(text []byte) (func(*net.UnixConn), error) {
				t, err := d.handover.accept(serving, text)
				if err != nil {
					return nil, err
				}
				return func(c *net.UnixConn) { successor = takeover.NewSuccessor(c, t); stop() }, nil
			}
		}
		err = d.socket.Serve(serving, h)
		stop()
		if successor == nil {
			return err
		}
		if d.handover.run(ctx, successor) || ctx.Err() != nil {
			return nil
		}
		if d.socket, err = d.listenAgain(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

const (
	// listenAgainTime is longer than a process takes to exit.
	listenAgainTime = 5 * time.Second

	listenAgainInterval = 50 * time.Millisecond
)

// listenAgain creates the control socket after a failed takeover. The other process may
// still have the socket's path for a moment after it has released the seal. If the group cannot get
// access, the socket is for its owner only. It returns nil if ctx ends first.
func (d *daemon) listenAgain(ctx context.Context) (l *control.Listener, err error) {
	p := d.current()
	for end := time.Now().Add(listenAgainTime); ; {
		if l, err = control.Listen(ctx, p.Control, p.ControlGroup); err == nil {
			return l, nil
		}
		if time.Now().After(end) && p.ControlGroup != 0 {
			d.log.Warn("cannot create the control socket for control-group: only its owner can use it", "err", err)
			p.ControlGroup = 0
			continue
		}
		if time.Now().After(end) {
			return nil, err
		}
		select {
		case <-time.After(listenAgainInterval):
		case <-ctx.Done():
			return nil, nil
		}
	}
}
