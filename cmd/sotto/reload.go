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

// reloadTime is more than any configuration takes to be read.
const reloadTime = time.Minute

func (e *env) reloadVerb() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "reload [--control PATH | --config FILE]",
		Short: "have the Sotto that runs read its configuration again",
		Long: `Have the 'sotto run' or 'sotto serve' that runs read its configuration again, with
the flags that it was started with over it, and wait until that is in force. No
query is lost. If anything is wrong with the new configuration the old one stays in
force as a whole, and this says why and exits with 1. SIGHUP does the same, and
leaves what came of it in the log.

It finds the process by its control socket: the one at --control, or that the
configuration names, or ` + defaultControl + `.`,
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

// reload finds the socket and asks there. With --control the configuration is not
// looked at. A mistake in it is for the process to find, which says so in its log
// too; so who cannot read it asks at the default place.
func (o *options) reload(c *cobra.Command) error {
	ctx, cancel := context.WithTimeout(c.Context(), reloadTime)
	defer cancel()
	s := defaultSettings()
	var unread error
	if !c.Flags().Changed("control") {
		s, unread = loadSettings(o.config)
		if unread != nil {
			s = defaultSettings()
		}
	}
	o.override(c, &s)
	path := s.controlPath(defaultControl)
	if path == "" {
		return fmt.Errorf("control is %q: send the process SIGHUP, or name a socket with --control", controlOff)
	}
	err := control.Reload(ctx, path)
	if unread != nil && errors.Is(err, control.ErrNobody) {
		return unread
	}
	return err
}
