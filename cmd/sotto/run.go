// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sotto/intercept"
)

// runName is the instance that `run` is: one a machine.
const runName = "sotto"

func (e *env) runVerb() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "run [flags]",
		Short: "seal this host, or the cgroups named, until stopped",
		Long: `Seal every process of this host, or of the cgroups that --cgroup names, until
SIGINT or SIGTERM: a clean stop takes the seal away. Killed, Sotto leaves the hooks
in place, so that queries fail rather than leave in the clear; the next 'sotto run'
takes over from there, and 'sotto down' takes everything away. With --on-exit=open
queries leave as they are, seconds after a crash too; with --on-exit=closed they fail
after a stop as well.

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
			return e.run(c.Context(), load)
		},
	}
	c.Flags().StringArrayVar(&o.given.Cgroups, "cgroup", nil, "seal the cgroup at `PATH`, not the whole host; again for more")
	c.Flags().StringArrayVar(&o.given.Exclude, "exclude", nil, "leave the cgroup at `PATH` and all below alone; again for more")
	o.guardFlag(c.Flags())
	c.Flags().StringVar(&o.given.OnExit, "on-exit", "", "strict: a stop opens the seal, a crash does not; open: both do; closed: neither (default strict)")
	o.upstreamFlags(c.Flags())
	o.fileFlags(c.Flags())
	return c
}

// run seals until a signal ends it.
func (e *env) run(ctx context.Context, load loader) error {
	hup := catchReloads()
	defer signal.Stop(hup)
	s, p, err := load()
	if err != nil {
		return err
	}
	if err := needRoot("run"); err != nil {
		return err
	}
	cfg, err := sealConfig(s, p)
	if err != nil {
		return err
	}
	cfg.Name = runName
	st := e.steering(load, p, fixedOfSeal)
	l, err := openSeal(ctx, p, cfg, st.log)
	if err != nil {
		return err
	}
	st.r, l.stay = l.r, p.onExit == exitClosed
	st.restore()
	if err := st.listen(ctx); err != nil {
		return errors.Join(err, l.Close())
	}
	defer st.close()
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	attached := false
	err = l.run(ctx, func(ctx context.Context) error {
		if err := l.inst.Attach(); err != nil {
			return err
		}
		attached = true
		st.log.Info("sealed", "cgroups", cfg.Cgroups, "upstreams", s.Upstream)
		st.notify(stateReady)
		return st.run(ctx, hup)
	})
	if err != nil && attached {
		return errors.Join(fmt.Errorf("%w; the seal stays closed: 'sotto run' takes over, 'sotto down' takes it away", err), l.abandon())
	}
	if err == nil {
		st.keep()
	}
	if err == nil && p.onExit == exitClosed {
		st.log.Info("stopped; the seal stays closed: 'sotto run' takes over, 'sotto down' takes it away")
		return l.abandon()
	}
	return errors.Join(err, l.Close())
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
	root, err := intercept.CgroupRoot()
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
			dir, err := intercept.FindCgroup(path)
			if err != nil {
				return cfg, s.at(fmt.Sprintf("%s[%d]", list.key, i), err)
			}
			*list.to = append(*list.to, dir)
		}
	}
	cfg.GuardHost = slices.Contains(cfg.Cgroups, root)
	return cfg, nil
}
