// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/service"
)

func (e *env) serveCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "serve [--listen ADDR]… [flags]",
		Short: "Forward plain DNS over TLS, without eBPF and root",
		Long: `  sotto serve --listen 127.0.0.1:5300
  sotto serve --listen :5300 --upstream 192.0.2.1#dns.example --policy fastest
  sotto serve --check --config sotto.toml

Answer DNS queries over UDP and TCP on each --listen address, from a cache or over
TLS, until stopped. ADDR is an address and a port (127.0.0.1:5300, [::1]:5300), or
a port on all addresses of both families (:5300). If a service manager passes sockets
(LISTEN_FDS, as systemd with sotto-serve.socket), they are used instead of --listen.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			load := o.loader(c, config.Options{Serve: true, Read: config.ReadFile, StateDir: e.stateDir()})
			if o.check {
				return e.check(load, nil)
			}
			outlivePipe()
			opts := e.daemonOptions(load)
			opts.Sockets = service.Sockets()
			return daemon.Serve(c.Context(), opts)
		},
	}
	c.Flags().StringArrayVarP(&o.flags.Listen, "listen", "l", nil, "`address` and port to listen on; repeatable (default 127.0.0.1:53)")
	o.upstreamFlags(c.Flags())
	o.fileFlags(c.Flags())
	return c
}
