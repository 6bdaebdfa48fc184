// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"

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
takes over from there, and 'sotto down' takes everything away.

PATH is a directory of the cgroup2 hierarchy, absolute (/sys/fs/cgroup/app.slice) or
relative to its root (app.slice). A cgroup means all below it too.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.settings(c)
			if err != nil {
				return err
			}
			return e.run(c.Context(), s)
		},
	}
	c.Flags().StringArrayVar(&o.given.Cgroups, "cgroup", nil, "seal the cgroup at `PATH`, not the whole host; again for more")
	c.Flags().StringArrayVar(&o.given.Exclude, "exclude", nil, "leave the cgroup at `PATH` and all below alone; again for more")
	o.upstreamFlags(c.Flags())
	o.configFlag(c.Flags())
	return c
}

// run seals until a signal ends it.
func (e *env) run(ctx context.Context, s settings) error {
	log, err := e.logger(s)
	if err != nil {
		return err
	}
	if err := needRoot("run"); err != nil {
		return err
	}
	cfg, err := sealConfig(s)
	if err != nil {
		return err
	}
	cfg.Name = runName
	l, err := openSeal(ctx, s, cfg, log)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	attached := false
	err = l.run(ctx, func() error {
		if err := l.inst.Attach(); err != nil {
			return err
		}
		attached = true
		log.Info("sealed", "cgroups", cfg.Cgroups, "upstreams", s.Upstream)
		notifyReady(e.getenv)
		return nil
	})
	if err != nil && attached {
		return errors.Join(fmt.Errorf("%w; the seal stays closed: 'sotto run' takes over, 'sotto down' takes it away", err), l.abandon())
	}
	return errors.Join(err, l.Close())
}

// sealConfig resolves the cgroups that s names; none means the root.
func sealConfig(s settings) (cfg intercept.Config, err error) {
	cfg.Ports, cfg.Prefix4, cfg.Prefix6 = s.Ports, s.Prefix4, s.Prefix6
	if len(s.Cgroups) == 0 {
		root, err := intercept.CgroupRoot()
		if err != nil {
			return cfg, err
		}
		cfg.Cgroups = []string{root}
	}
	for _, list := range []struct {
		from []string
		to   *[]string
	}{{s.Cgroups, &cfg.Cgroups}, {s.Exclude, &cfg.Exclude}} {
		for _, path := range list.from {
			dir, err := intercept.FindCgroup(path)
			if err != nil {
				return cfg, err
			}
			*list.to = append(*list.to, dir)
		}
	}
	return cfg, nil
}
