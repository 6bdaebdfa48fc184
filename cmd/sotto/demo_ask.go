// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"sotto/internal/demo"
)

// demoAskVerb is the client that the demo runs where there is no dig. Hidden:
// it is no tool of its own.
func (e *env) demoAskVerb() *cobra.Command {
	return &cobra.Command{
		Use:    "ask NAME [TYPE] @SERVER [+tcp]…",
		Short:  "ask like dig, for the demo on machines without it",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE:   func(c *cobra.Command, args []string) error { return demo.Ask(c.Context(), e.stdout, args) },
	}
}
