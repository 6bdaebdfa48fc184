// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"sotto/intercept"
	"sotto/internal/config"
	"sotto/internal/control"
)

func (e *env) downCommand() *cobra.Command {
	stray := false
	c := &cobra.Command{
		Use:   "down",
		Short: "Remove everything that Sotto left on this machine",
		Long: `  sudo sotto down
  sudo sotto down --stray

Remove what a killed Sotto left in place: hooks, maps, namespaces, links, routes and
cgroups. It does not need a running Sotto and does not stop one: if one is running, the
error names it, and it has to be stopped first.

With --stray it removes only what no Sotto needs any more: the name of a network namespace
that a service with a mount namespace of its own could not remove when it stopped. A seal
that a killed Sotto left closed stays closed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(needRoot("down"), e.seeCgroups()); err != nil {
				return err
			}
			if stray {
				return intercept.ClearStray(c.Context(), e.logger(slog.LevelInfo))
			}
			if err := intercept.Down(c.Context(), e.logger(slog.LevelInfo)); err != nil {
				return err
			}
			return control.Remove(config.DefaultControl)
		},
	}
	c.Flags().BoolVar(&stray, "stray", false, "remove only what a stopped Sotto could not remove itself")
	return c
}
