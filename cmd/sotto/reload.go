// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sotto/internal/control"
)

// reloadTimeout is longer than any reload takes.
const reloadTimeout = time.Minute

func (e *env) reloadCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "reload [--control PATH | --config FILE]",
		Short: "Reload the configuration of the running Sotto",
		Long: `  sudo sotto reload
  sotto reload --control /run/user/1000/sotto.sock

Make the running 'sotto run' or 'sotto serve' reload its configuration, with the flags
that it was started with, and wait until the new configuration is in force. No query is
lost. If the new configuration is invalid, the old one stays in force as a whole, and
this command prints the error and exits with status 1. SIGHUP does the same, and logs
the result.` + remoteHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.reload(c); err != nil {
				return err
			}
			_, err := fmt.Fprintln(e.stdout, "reloaded")
			return err
		},
	}
	o.remoteFlags(c.Flags())
	return c
}

// reload requests a reload. If the configuration cannot be read, the running process finds the
// error itself, and logs it too.
func (o *options) reload(c *cobra.Command) error {
	path, loadErr, err := o.controlPath(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), reloadTimeout)
	defer cancel()
	err = control.Reload(ctx, path)
	if loadErr != nil && errors.Is(err, control.ErrNotRunning) {
		return loadErr
	}
	return err
}
