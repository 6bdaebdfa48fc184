// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/names"
	"sotto/internal/observe"
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

	// NotifySocket is the socket of the service manager ($NOTIFY_SOCKET), or "".
	NotifySocket string

	// DropPrivileges is [privdrop.Apply]. It is nil in tests, which keep their privileges.
	DropPrivileges func(keep []string, deny ...uint32) error
}

// daemon is the state of a running `run` or `serve`.
type daemon struct {
	Options
	fixed    func(config.Plan) []setting // settings of this command that a reload cannot change
	resolver *resolver
	socket   *control.Listener // nil if there is no control socket
	log      *slog.Logger
	level    *slog.LevelVar
	hub      *observe.Hub    // all queries
	recent   *observe.Recent // warnings and errors of log
	names    *names.Resolver // of workloads; nil if they are not looked up
	started  time.Time
	handover *handover // nil if no other process can take over

	mu   sync.Mutex  // serializes reloads
	plan config.Plan // see current
}

// newDaemon prepares to run p. The caller sets the resolver.
func newDaemon(o Options, p config.Plan, fixed func(config.Plan) []setting) *daemon {
	d := &daemon{
		Options: o, fixed: fixed, level: &slog.LevelVar{}, plan: p,
		hub: &observe.Hub{}, recent: &observe.Recent{}, started: time.Now(),
	}
	d.level.Set(p.Level)
	d.log = slog.New(d.recent.Handler(o.Logger(d.level).Handler()))
	d.attribute()
	p.Warn(d.log)
	return d
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

// listen creates the control socket, if the plan has one. The caller calls close.
func (d *daemon) listen(ctx context.Context) (err error) {
	if d.plan.Control != "" {
		d.socket, err = control.Listen(ctx, d.plan.Control)
	}
	return err
}

// close removes the control socket, if run has not done so.
func (d *daemon) close() {
	if d.socket == nil {
		return
	}
	if err := d.socket.Close(); err != nil {
		d.log.Error("cannot remove the control socket", "err", err)
	}
}

// run reloads the configuration on SIGHUP, and serves the control socket, until ctx ends.
func (d *daemon) run(ctx context.Context, hup <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
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
// still have the socket's path for a moment after it has released the seal. It returns nil
// if ctx ends first.
func (d *daemon) listenAgain(ctx context.Context) (l *control.Listener, err error) {
	for end := time.Now().Add(listenAgainTime); ; {
		if l, err = control.Listen(ctx, d.current().Control); err == nil || time.Now().After(end) {
			return l, err
		}
		select {
		case <-time.After(listenAgainInterval):
		case <-ctx.Done():
			return nil, nil
		}
	}
}
