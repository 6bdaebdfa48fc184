// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sotto/internal/config"
	"sotto/internal/control"
	"sotto/internal/status"
	"sotto/internal/terminal"
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
				return o.askReady(c)
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
			return s.Text(e.stdout, time.Now(), e.style())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	c.Flags().BoolVar(&watch, "watch", false, "show the state every two seconds, until interrupted")
	c.Flags().BoolVar(&ready, "ready", false, "print nothing; exit with status 0 if queries are answered")
	o.remoteFlags(c.Flags())
	return c
}

// askReady returns an error if queries are not answered. It asks the socket for probes, if the
// configuration has one.
func (o *options) askReady(c *cobra.Command) error {
	if !c.Flags().Changed("control") {
		if s, err := config.Load(o.config); err == nil && s.ProbeSocket != "" {
			o.probe = s.ProbeSocket
		}
	}
	_, err := o.request(c, http.MethodGet, control.ReadyPath, nil)
	return err
}

// style is that of texts on the standard output.
func (e *env) style() status.Style { return status.Style{Colour: terminal.Colours(e.stdout, e.getenv)} }

// watchStatus shows the state until it is interrupted. On a terminal each state replaces the
// last one, and the terminal is restored at the end.
func (e *env) watchStatus(c *cobra.Command, o *options) (err error) {
	ctx, stop := untilInterrupted(c.Context())
	defer stop()
	c.SetContext(ctx)
	first, err := e.statusText(c, o)
	if err != nil {
		return err
	}
	screen, err := terminal.Open(e.stdout)
	defer func() { err = errors.Join(err, screen.Close()) }()
	if err != nil {
		return err
	}
	show := func(text string) error {
		_, err := fmt.Fprintln(e.stdout, text)
		return err
	}
	if screen != nil {
		show = screen.Show
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for text := first; ; {
		if err := show(text); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if text, err = e.statusText(c, o); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// statusText returns the state of the running Sotto for people.
func (e *env) statusText(c *cobra.Command, o *options) (string, error) {
	var s status.Status
	if err := o.get(c, "/v1/status", nil, &s); err != nil {
		return "", err
	}
	var text strings.Builder
	err := s.Text(&text, time.Now(), e.style())
	return text.String(), err
}
