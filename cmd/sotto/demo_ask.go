// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"sotto/internal/demo"
)

// demoAskCommand is the client that the demo runs if dig is not installed. It is hidden,
// because it is of no use on its own.
func (e *env) demoAskCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "ask NAME [TYPE] @SERVER [+tcp]…",
		Short:  "Query like dig, for the demo on machines without dig",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE:   func(c *cobra.Command, args []string) error { return demo.Ask(c.Context(), e.stdout, args) },
	}
}
