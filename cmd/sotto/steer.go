// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sotto/internal/control"
	"sotto/internal/handover"
)

const (
	// defaultControl is where `run` is told things, and `reload` looks for it.
	defaultControl = "/run/sotto/control.sock"

	// controlOff is for who wants no such socket.
	controlOff = "off"
)

// controlPath is where a verb listens that listens at def unless told otherwise;
// "": nowhere.
func (s *settings) controlPath(def string) string {
	switch s.Control {
	case "":
		return def
	case controlOff:
		return ""
	}
	return s.Control
}

// steering is what a running `run` or `serve` needs to take on another
// configuration.
type steering struct {
	load   loader
	fixed  func(plan) []fixed // what cannot change while the verb runs
	r      *resolver
	socket *control.Listener // nil: there is none
	log    *slog.Logger
	level  *slog.LevelVar
	notify func(state string)
	heir   *succession // nil: nobody can take over

	mu  sync.Mutex // one change at a time
	now plan       // see current
}

// loader reads what the file says now, with the flags of the call over it.
type loader func() (settings, plan, error)

// loader is for the flags that c was called with.
func (o *options) loader(c *cobra.Command, f planFor) loader {
	return func() (settings, plan, error) {
		s, err := o.settings(c)
		if err != nil {
			return s, plan{}, err
		}
		p, err := s.plan(f)
		return s, p, err
	}
}

// steering prepares to run p; the caller adds the resolver.
func (e *env) steering(load loader, p plan, fixed func(plan) []fixed) *steering {
	st := &steering{load: load, fixed: fixed, level: &slog.LevelVar{}, now: p}
	st.level.Set(p.level)
	st.log = e.logger(st.level)
	st.notify = func(state string) { notify(e.getenv, state) }
	p.warn(st.log)
	return st
}

// listen makes the control socket, if there is to be one. The caller calls close.
func (st *steering) listen(ctx context.Context) (err error) {
	if st.now.control != "" {
		st.socket, err = control.Listen(ctx, st.now.control)
	}
	return err
}

// close takes the control socket away, if run did not.
func (st *steering) close() {
	if st.socket == nil {
		return
	}
	if err := st.socket.Close(); err != nil {
		st.log.Error("take the control socket away", "err", err)
	}
}

// current is the plan in force. Who takes over has the cache kept while a signal may
// have the configuration read again.
func (st *steering) current() plan {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.now
}

// fixed is a setting that only a restart changes.
type fixed struct {
	key   string
	value any
}

// common are those of both verbs.
func common(p plan) []fixed {
	return []fixed{
		{"control", p.control}, {"log-queries", p.logQueries},
		{"max-queries", p.maxQueries}, {"max-waiting", p.maxWaiting}, {"max-tcp", p.maxTCP},
		{"cache-mib", p.cache.MaxBytes == 0},
	}
}

// catchReloads has SIGHUP ask for a reload, from before there is anything to
// reload: it must not end the process in between. The caller stops it.
func catchReloads() chan os.Signal {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	return hup
}

// run changes the configuration whenever a signal or somebody at the socket asks
// for it, until ctx ends.
func (st *steering) run(ctx context.Context, hup <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-hup:
				_ = st.reload(ctx) // logged, and nobody else waits for it
			case <-ctx.Done():
				return nil
			}
		}
	})
	if st.socket != nil {
		g.Go(func() error {
			if err := st.control(ctx); err != nil {
				// No reason to end what answers queries.
				st.log.Error("the control socket is gone; SIGHUP still reloads", "err", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// control answers on the control socket until ctx ends, or another process has taken
// over. One that is about to has the socket's name meanwhile.
func (st *steering) control(ctx context.Context) (err error) {
	for {
		var next *handover.Conn
		serving, stop := context.WithCancel(ctx)
		h := control.Handlers{Reload: st.reload}
		if st.heir != nil {
			h.Replace = func(terms []byte) (func(*net.UnixConn), error) {
				if err := st.heir.yield(serving, terms); err != nil {
					return nil, err
				}
				return func(c *net.UnixConn) { next = handover.New(c); stop() }, nil
			}
		}
		err = st.socket.Serve(serving, h)
		stop()
		if next == nil {
			return err
		}
		if st.heir.hand(ctx, next) || ctx.Err() != nil {
			return nil
		}
		if st.socket, err = st.listenAgain(ctx); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// listenAgain makes the control socket anew, once the process that did not take over has
// let go of its name: that may be a moment after it let go of the seal. There is none
// when ctx ends first.
func (st *steering) listenAgain(ctx context.Context) (l *control.Listener, err error) {
	for end := time.Now().Add(listenAgainTime); ; {
		if l, err = control.Listen(ctx, st.current().control); err == nil || time.Now().After(end) {
			return l, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// listenAgainTime is more than a process takes to end.
const listenAgainTime = 5 * time.Second

// reload puts in force what the configuration says now. If anything is wrong with
// that, all stays as it is.
func (st *steering) reload(ctx context.Context) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.notify(stateReloading())
	defer st.notify(stateReady)
	p, err := st.change(ctx)
	if err != nil {
		st.log.Error("reload: the configuration stays as it was", "err", err)
		return err
	}
	st.now = p
	st.level.Set(p.level)
	p.warn(st.log)
	st.log.Info("reloaded", "groups", groupNames(p.groups), "rules", len(p.rules.uses))
	return nil
}

// change reads, compares and applies.
func (st *steering) change(ctx context.Context) (plan, error) {
	s, p, err := st.load()
	if err != nil {
		return p, err
	}
	was, is := append(common(st.now), st.fixed(st.now)...), append(common(p), st.fixed(p)...)
	for i := range is {
		if fmt.Sprint(is[i].value) != fmt.Sprint(was[i].value) {
			return p, s.at(is[i].key, errors.New("it changed, which only a restart brings about: restart Sotto, or put it back"))
		}
	}
	return p, st.r.change(ctx, p)
}

// warn logs what is odd about a plan.
func (p *plan) warn(log *slog.Logger) {
	for _, text := range p.rules.warnings {
		log.Warn("configuration: " + text)
	}
}
