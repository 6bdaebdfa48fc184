// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"sotto/internal/check"
	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/daemon"
	"sotto/internal/status"
	"sotto/internal/terminal"
)

// check validates the configuration and the flags, and prints a summary. validate, if not
// nil, holds further checks of a command.
func (e *env) check(load daemon.Loader, validate func(config.Settings, config.Plan) error) error {
	s, p, err := load()
	if err == nil && validate != nil {
		err = validate(s, p)
	}
	if err != nil {
		return err
	}
	p.Warn(e.logger(p.Level))
	file := s.File()
	if file == "" {
		file = "defaults and flags, no file"
	}
	_, err = fmt.Fprintf(e.stdout, "valid: %s: groups %s; %d rules\n", file, p.GroupNames(), len(p.Rules.Uses))
	return err
}

func (e *env) checkCommand() *cobra.Command {
	var o options
	var asJSON, noQuery bool
	c := &cobra.Command{
		Use:   "check [flags]",
		Short: "Check whether this machine can run Sotto, and what to fix",
		Long: `  sudo sotto check                        check everything, with a sealed query
  sudo sotto check --no-query --json      only look, for scripts
  sudo sotto check --cgroup app.slice     check a seal of that cgroup

Checks the configuration, the kernel, capabilities, cgroup2, bpffs, routes, packet filters,
eBPF programs of other software, local resolvers and other ways to look up names, every
upstream with its certificate, and the clock. Then it seals a process of its own in a new
cgroup, sends queries from it, and captures on all interfaces meanwhile: no packet of these
queries may leave in the clear. If Sotto is running and seals this process, it sends the
queries through that seal instead.

Each line is ok, warning, failed or skipped, followed by the fix. The exit status is 1 if a
check failed, else 0. Without root, the checks that need it are skipped. Nothing changes.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_ = e.seeCgroups() // if it fails, the check of cgroup2 names the fix
			ctx, stop := untilInterrupted(c.Context())
			defer stop()
			return e.checkMachine(ctx, check.Options{
				Daemon: e.daemonOptions(e.runLoader(c, &o)), Query: !noQuery,
				Status: func(ctx context.Context) (status.Status, error) { return o.askStatus(ctx, c) },
				Client: []string{"/proc/self/exe", checkClientName},
			}, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the results as JSON")
	c.Flags().BoolVar(&noQuery, "no-query", false, "do not send a sealed query")
	o.cgroupFlags(c.Flags())
	o.localFlag(c.Flags())
	o.upstreamFlags(c.Flags())
	o.remoteFlags(c.Flags())
	return c
}

// checkMachine runs the checks and prints the results, as they come or at the end as JSON.
func (e *env) checkMachine(ctx context.Context, o check.Options, asJSON bool) error {
	var failure error // of the output
	colour := terminal.Is(e.stdout) && e.getenv("NO_COLOR") == ""
	report, err := check.Run(ctx, o, func(r check.Result) {
		if !asJSON && failure == nil {
			failure = r.Text(e.stdout, colour)
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("the check was interrupted: %w", err)
	case failure != nil:
		return failure
	case asJSON:
		failure = e.printJSON(report)
	default:
		failure = report.Summary(e.stdout)
	}
	if failure == nil && report.State == check.Failed {
		return exitError(exitFailure)
	}
	return failure
}

// askStatus asks the running Sotto for its status.
func (o *options) askStatus(ctx context.Context, c *cobra.Command) (s status.Status, err error) {
	path, _, err := o.controlPath(c)
	if err != nil {
		return s, check.ErrNoSocket
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := control.Request(ctx, path, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return s, err
	}
	defer body.Close()
	return s, json.NewDecoder(body).Decode(&s)
}

// checkClientName is the command that `check` runs in a sealed cgroup.
const checkClientName = "check-client"

func (e *env) checkClientCommand() *cobra.Command {
	return &cobra.Command{
		Use:    checkClientName,
		Short:  "Send the queries of 'sotto check', in a cgroup that it has sealed",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(c *cobra.Command, _ []string) error { return check.Client(c.Context(), e.stdin, e.stdout) },
	}
}
