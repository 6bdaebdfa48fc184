// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"

	"github.com/spf13/cobra"

	"sotto/intercept"
	"sotto/intercept/cgroup"
)

// runName is the instance that `run` is: one a machine.
const runName = "sotto"

func (e *env) runVerb() *cobra.Command {
	var o options
	var replace replaceMode
	c := &cobra.Command{
		Use:   "run [flags]",
		Short: "seal this host, or the cgroups named, until stopped",
		Long: `Seal every process of this host, or of the cgroups that --cgroup names, until
SIGINT or SIGTERM: a clean stop takes the seal away. Killed, Sotto leaves the hooks
in place, so that queries fail rather than leave in the clear; the next 'sotto run'
takes over from there, and 'sotto down' takes everything away. With --on-exit=open
queries leave as they are, seconds after a crash too; with --on-exit=closed they fail
after a stop as well.

With --replace it takes over from the 'sotto run' that runs, of another version or with
another configuration: that one ends, and no query is lost. Virtual addresses have to
stay the same, and what is sealed to stay sealed. One that is stopping is waited for.

Where a supervisor starts again whatever exits, also with status 0 (kubelet, Docker with
restart: always), run with --when-replaced=wait: a replaced process then lets go of the
seal and stays until it is stopped. One that is started again all the same is refused by
the process that replaced it; --replace=back insists.

A stop during a takeover waits for its outcome: the process that has the seal then stops
as --on-exit says, and the other one leaves the seal alone.

What sockets send past the hooks (raw and packet sockets, those that were connected
before) the guard drops, and where the whole host is sealed also what virtual machines
send. --guard=count lets it pass and counts it.

PATH is a directory of the cgroup2 hierarchy, absolute (/sys/fs/cgroup/app.slice) or
relative to its root (app.slice). A cgroup means all below it too.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			load := o.loader(c, planFor{read: readFile})
			if o.check {
				return e.check(load, func(s settings, p plan) error {
					_, err := sealConfig(s, p)
					return err
				})
			}
			return e.run(c.Context(), load, replace)
		},
	}
	c.Flags().StringArrayVar(&o.given.Cgroups, "cgroup", nil, "seal the cgroup at `PATH`, not the whole host; again for more")
	c.Flags().StringArrayVar(&o.given.Exclude, "exclude", nil, "leave the cgroup at `PATH` and all below alone; again for more")
	o.guardFlag(c.Flags())
	c.Flags().Var(&replace, "replace", "take over from the 'sotto run' that runs, of whatever version, without losing a query; --replace=back: also from one that has replaced this one")
	c.Flags().Lookup("replace").NoOptDefVal = replaceThis.String()
	c.Flags().StringVar(&o.given.WhenReplaced, "when-replaced", "", "exit, or wait: stay until stopped, for a supervisor that would start it again (default exit)")
	c.Flags().StringVar(&o.given.OnExit, "on-exit", "", "strict: a stop opens the seal, a crash does not; open: both do; closed: neither (default strict)")
	o.upstreamFlags(c.Flags())
	o.fileFlags(c.Flags())
	return c
}

// run seals until a signal ends it, or another process takes over.
func (e *env) run(ctx context.Context, load loader, mode replaceMode) error {
	hup := catchReloads()
	defer signal.Stop(hup)
	wait, err := e.seal(ctx, load, mode, hup)
	if wait != nil {
		freeAndWait(wait)
	}
	return err
}

// seal is run but for the wait of a process that was replaced: nothing refers to the seal
// by then.
func (e *env) seal(ctx context.Context, load loader, mode replaceMode, hup <-chan os.Signal) (wait <-chan struct{}, err error) {
	s, p, cfg, err := loadRun(load)
	if err != nil {
		return nil, err
	}
	st := e.steering(load, p, fixedOfSeal)
	warnLeavable(cfg, st.log)
	outlasting := ctx // of what is answered still
	ctx, stops := catchStops(ctx, st.log)
	o, err := st.open(ctx, outlasting, cfg, mode, stops)
	if errors.Is(err, errWithdrawn) {
		st.log.Info("stopped before it took over")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l, from := o.l, o.from
	st.r, l.stay = l.r, p.onExit == exitClosed
	st.restore()
	if err := st.listen(ctx); err != nil {
		return nil, errors.Join(err, o.close())
	}
	defer st.close()
	st.heir = &succession{l: l, st: st, terms: o.terms, lineage: lineage{o.terms.Identity, o.replaced}, stops: stops, log: st.log}
	if from != nil {
		l.sockets = from.sockets
	}
	attached := false
	err = l.run(ctx, func(ctx context.Context) error {
		if from != nil && ctx.Err() != nil {
			return nil
		}
		if err := l.inst.Attach(); err != nil {
			return err
		}
		attached = true
		e.confine(st.log, keepRun, deniedTo(l.inst)...)
		st.log.Info("sealed", "cgroups", cfg.Cgroups, "upstreams", s.Upstream)
		if from == nil {
			st.notify(stateReady)
			return st.run(ctx, hup)
		}
		if err := from.take(ctx, stops, l.given, st.log); err != nil {
			return err
		}
		st.notify(stateReadyInstead())
		return st.run(ctx, hup)
	})
	if handedOver(ctx) {
		return st.replaced(l, err)
	}
	if err = st.ended(ctx, l, p.onExit, err, attached); !attached {
		err = errors.Join(err, from.close()) // which takes everything back
	}
	return nil, err
}

// loadRun reads what `run` is to do.
func loadRun(load loader) (s settings, p plan, cfg intercept.Config, err error) {
	if s, p, err = load(); err != nil {
		return s, p, cfg, err
	}
	if err := needRoot("run"); err != nil {
		return s, p, cfg, err
	}
	cfg, err = sealConfig(s, p)
	cfg.Name = runName
	return s, p, cfg, err
}

// staysClosed is for who has to do something about it.
const staysClosed = "the seal stays closed: 'sotto run' takes over, 'sotto down' takes it away"

// ended does what is left to do when run ends, and no other process has taken over.
func (st *steering) ended(ctx context.Context, l *seal, onExit string, err error, attached bool) error {
	if cause := context.Cause(ctx); err == nil && !stopped(ctx) && !errors.Is(cause, errWithdrawn) {
		err = cause
	}
	switch {
	case err != nil && !attached:
		return errors.Join(err, l.Close())
	case err != nil && !st.heir.stops.isOwner():
		return errors.Join(err, l.abandon()) // another process has the seal, or takes it back
	case err != nil:
		return errors.Join(fmt.Errorf("%w; %s", err, staysClosed), l.abandon())
	case !stopped(ctx):
		st.log.Info("stopped before it took over; the Sotto that ran goes on")
		return l.abandon()
	}
	st.keep()
	if onExit == exitClosed {
		st.log.Info("stopped; " + staysClosed)
		return l.abandon()
	}
	return l.Close()
}

// warnLeavable logs which cgroups a user other than root can move processes out of, or
// into where they are excluded: such a user decides what is sealed.
func warnLeavable(cfg intercept.Config, log *slog.Logger) {
	for what, dirs := range map[string][]string{"out of a sealed cgroup": cfg.Cgroups, "into an excluded cgroup": cfg.Exclude} {
		for _, dir := range dirs {
			why, err := cgroup.Leavable(dir)
			switch {
			case err != nil:
				log.Warn("cannot check who may move processes "+what, "cgroup", dir, "err", err)
			case why != "":
				log.Warn("a user other than root can move processes "+what+"; name a cgroup whose parent belongs to root", "cgroup", dir, "reason", why)
			}
		}
	}
}

// fixedOfSeal is what the kernel half was told at the start.
func fixedOfSeal(p plan) []fixed {
	return []fixed{{"cgroups", p.cgroups}, {"exclude", p.exclude}, {"ports", p.ports}, {"prefix4", p.prefix4}, {"prefix6", p.prefix6},
		{"guard", p.guard}, {"on-exit", p.onExit}}
}

// sealConfig resolves the cgroups that a plan names; none means the root. s is
// what the plan is of.
func sealConfig(s settings, p plan) (cfg intercept.Config, err error) {
	cfg.Ports, cfg.Prefix4, cfg.Prefix6, cfg.Guard = p.ports, p.prefix4, p.prefix6, p.guard
	if p.onExit == exitOpen {
		cfg.OpenAfter = openAfter
	}
	root, err := cgroup.Root()
	if err != nil {
		return cfg, err
	}
	if len(p.cgroups) == 0 {
		cfg.Cgroups = []string{root}
	}
	for _, list := range []struct {
		key  string
		from []string
		to   *[]string
	}{{"cgroups", p.cgroups, &cfg.Cgroups}, {"exclude", p.exclude, &cfg.Exclude}} {
		for i, path := range list.from {
			dir, err := cgroup.Find(path)
			if err != nil {
				return cfg, s.at(fmt.Sprintf("%s[%d]", list.key, i), err)
			}
			*list.to = append(*list.to, dir)
		}
	}
	cfg.GuardHost = slices.Contains(cfg.Cgroups, root)
	return cfg, nil
}
