// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"sotto/internal/status"
)

func (e *env) explainCommand() *cobra.Command {
	var o options
	var typ, workload, nameserver string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain NAME [flags]",
		Short: "Show what would happen to a query",
		Long: `  sudo sotto explain www.example.com
  sudo sotto explain printer --nameserver 127.0.0.53
  sudo sotto explain ads.example --type AAAA --workload docker:web

Shows which rule matches a query, what the cache has, and to which upstreams it would be
forwarded. Nothing is sent.` + remoteHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := url.Values{"name": args[:1], "type": {typ}, "workload": {workload}, "nameserver": {nameserver}}
			var x status.Explanation
			if err := o.get(c, "/v1/explain", q, &x); err != nil {
				return err
			}
			if asJSON {
				return e.printJSON(x)
			}
			return x.Text(e.stdout)
		},
	}
	fs := c.Flags()
	fs.StringVar(&typ, "type", "A", "`type` of the query")
	fs.StringVar(&workload, "workload", "", "`workload` that asks: a cgroup path, or the name, such as docker:web, of one that has sent a query")
	fs.StringVar(&nameserver, "nameserver", "", "`address` of the nameserver that the workload asks")
	fs.BoolVar(&asJSON, "json", false, "print the result as JSON")
	o.remoteFlags(fs)
	return c
}
