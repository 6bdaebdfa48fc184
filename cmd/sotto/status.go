// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/internal/config"
	"sotto/internal/status"
)

// watchInterval is the time between two states of `status --watch`.
const watchInterval = 2 * time.Second

func (e *env) statusCommand() *cobra.Command {
	var o options
	var asJSON, watch, ready bool
	c := &cobra.Command{
		Use:   "status [--json | --watch | --ready]",
		Short: "Show what the running Sotto seals and how it answers",
		Long: `  sudo sotto status            show the state once
  sudo sotto status --watch    show it every two seconds
  sotto status --ready         exit with status 0 if queries are answered, for probes

Shows the sealed cgroups, the upstreams with their state and times, the cache, the queries
by the source of their answer, the packets that the guard dropped, and the latest warnings
and errors. With --json it prints all of it in the form that docs/status.schema.json
describes.` + remoteHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if (asJSON && watch) || (ready && (asJSON || watch)) {
				return config.Usagef("--json, --watch and --ready exclude each other")
			}
			switch {
			case ready:
				_, err := o.request(c, http.MethodGet, "/v1/ready", nil)
				return err
			case watch:
				return e.watchStatus(c, &o)
			}
			var s status.Status
			if err := o.get(c, "/v1/status", nil, &s); err != nil {
				return err
			}
			if asJSON {
				return e.printJSON(s)
			}
			return s.Text(e.stdout, time.Now())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	c.Flags().BoolVar(&watch, "watch", false, "show the state every two seconds, until interrupted")
	c.Flags().BoolVar(&ready, "ready", false, "print nothing; exit with status 0 if queries are answered")
	o.remoteFlags(c.Flags())
	return c
}

// clearScreen moves the cursor to the top left corner and clears the terminal (ECMA-48).
const clearScreen = "\x1b[H\x1b[2J"

// watchStatus shows the state until the context ends. On a terminal each state replaces the
// last one.
func (e *env) watchStatus(c *cobra.Command, o *options) error {
	ctx, stop := untilInterrupted(c.Context())
	defer stop()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		var s status.Status
		if err := o.get(c, "/v1/status", nil, &s); err != nil {
			return err
		}
		var text strings.Builder
		if err := s.Text(&text, time.Now()); err != nil {
			return err
		}
		start, end := "", "\n"
		if isTerminal(e.stdout) {
			start, end = clearScreen, ""
		}
		if _, err := fmt.Fprint(e.stdout, start, text.String(), end); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
