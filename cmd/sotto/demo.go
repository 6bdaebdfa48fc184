// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sotto/internal/demo"
)

func (e *env) demoVerb() *cobra.Command {
	c := &cobra.Command{
		Use:   "demo",
		Short: "see it work, with no internet: what crossed the wire before, and what crosses it sealed",
		Long: `Make a small network of namespaces with no way out, a nameserver on it that listens
on plain port 53 and another that speaks DNS over TLS with a throwaway certificate
authority, ask with 'dig' unsealed and sealed, and print what crossed the wire each
time. Everything is taken away again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needRoot("demo"); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program's own file: %w", err)
			}
			// A closed terminal or pipe (sotto demo | head) ends the demo in
			// order, too, instead of leaving its network behind.
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
			defer stop()
			return demo.Run(ctx, demo.Options{Stdout: e.stdout, Self: self})
		},
	}
	c.AddCommand(e.demoUpstreamVerb(), e.demoAskVerb())
	return c
}
