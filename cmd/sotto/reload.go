// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sotto/internal/config"
	"sotto/internal/control"
)

// reloadTimeout is longer than any reload takes.
const reloadTimeout = time.Minute

func (e *env) reloadCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "reload [--control PATH | --config FILE]",
		Short: "Reload the configuration of the running Sotto",
		Long: `Make the running 'sotto run' or 'sotto serve' reload its configuration, with the flags
that it was started with, and wait until the new configuration is in force. No query is
lost. If the new configuration is invalid, the old one stays in force as a whole, and
this command prints the error and exits with status 1. SIGHUP does the same, and logs
the result.

The process is found by its control socket: the one given with --control, else the one
that the configuration names, else ` + config.DefaultControl + `.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.reload(c); err != nil {
				return err
			}
			_, err := fmt.Fprintln(e.stdout, "reloaded")
			return err
		},
	}
	o.configFlag(c.Flags())
	o.controlFlag(c.Flags())
	return c
}

// reload finds the control socket and requests a reload. With --control it does not read the
// configuration. If it cannot read it, it uses the default socket: the running process finds
// the error itself, and logs it too.
func (o *options) reload(c *cobra.Command) error {
	ctx, cancel := context.WithTimeout(c.Context(), reloadTimeout)
	defer cancel()
	s := config.Default()
	var loadErr error
	if !c.Flags().Changed("control") {
		s, loadErr = config.Load(o.config)
		if loadErr != nil {
			s = config.Default()
		}
	}
	o.override(c, &s)
	path := s.ControlPath(config.DefaultControl)
	if path == "" {
		return fmt.Errorf("control is %q: send SIGHUP to the process, or name a socket with --control", config.ControlOff)
	}
	err := control.Reload(ctx, path)
	if loadErr != nil && errors.Is(err, control.ErrNotRunning) {
		return loadErr
	}
	return err
}
