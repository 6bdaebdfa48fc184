// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"sotto/intercept"
	"sotto/internal/control"
)

func (e *env) downVerb() *cobra.Command {
	stray := false
	c := &cobra.Command{
		Use:   "down",
		Short: "take every trace of Sotto off this machine",
		Long: `Take away what a killed Sotto left: hooks, maps, namespaces, links, routes and
cgroups. It needs no daemon, and ends none: one that runs is named, to be stopped
first.

With --stray only what no Sotto needs any more: the name of a network namespace that a
service with mounts of its own could not remove when it stopped. What a killed Sotto left
closed stays closed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needRoot("down"); err != nil {
				return err
			}
			if stray {
				return intercept.ClearStray(c.Context(), e.logger(slog.LevelInfo))
			}
			if err := intercept.Down(c.Context(), e.logger(slog.LevelInfo)); err != nil {
				return err
			}
			return control.Remove(defaultControl)
		},
	}
	c.Flags().BoolVar(&stray, "stray", false, "take away only what a Sotto that has stopped could not")
	return c
}
