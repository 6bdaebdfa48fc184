// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"sotto/internal/pathtest"
)

// pathTestName is the name of the command that `run` starts.
const pathTestName = "path-test"

// pathTestCommand is the child process of `run` that tests whether queries reach it.
func (e *env) pathTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:    pathTestName,
		Short:  "Test whether queries of sealed cgroups reach Sotto; started by 'sotto run'",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return pathtest.Main(c.Context(), e.stdin, e.stdout)
		},
	}
}
