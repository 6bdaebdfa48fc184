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

func (e *env) demoCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the packets of an unsealed and a sealed query, without internet access",
		Long: `  sudo sotto demo

Create a small isolated network of namespaces with two nameservers: one for plain DNS
on port 53, and one for DNS over TLS with a temporary certificate authority. Run 'dig'
unsealed and sealed, and print the packets of each query. Everything is removed at the
end.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needRoot("demo"); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program's own file: %w", err)
			}
			// SIGHUP and SIGPIPE: a closed terminal or pipe (sotto demo | head) must not
			// leave the network behind.
			ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
			defer stop()
			return demo.Run(ctx, demo.Options{Stdout: e.stdout, Self: self})
		},
	}
	c.AddCommand(e.demoUpstreamCommand(), e.demoAskCommand())
	return c
}
