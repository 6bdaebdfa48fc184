// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func (e *env) cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Manage the cache of the running Sotto",
		Long: `  sudo sotto cache flush                remove everything
  sudo sotto cache flush example.com    remove the answers for a name and all below it

'sotto status' shows how full the cache is, and 'sotto explain NAME' what it has for a name.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var o options
	flush := &cobra.Command{
		Use:   "flush [NAME]",
		Short: "Remove answers from the cache",
		Long: `  sudo sotto cache flush                remove everything
  sudo sotto cache flush example.com    remove the answers for a name and all below it

Prints the number of answers that were removed.` + remoteHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := url.Values{}
			if len(args) > 0 {
				q.Set("name", args[0])
			}
			text, err := o.request(c, http.MethodPost, "/v1/cache/flush", q)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "answers removed: %s\n", strings.TrimSpace(string(text)))
			return err
		},
	}
	o.remoteFlags(flush.Flags())
	c.AddCommand(flush)
	return c
}

func (e *env) logLevelCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "log-level debug|info|warn|error",
		Short: "Change the log level of the running Sotto",
		Long: `  sudo sotto log-level debug

Changes the level until the next reload or restart, and prints the old one.` + remoteHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := o.request(c, http.MethodPost, "/v1/log-level", url.Values{"level": args})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.stdout, "log level was %s\n", strings.ToLower(strings.TrimSpace(string(text))))
			return err
		},
	}
	o.remoteFlags(c.Flags())
	return c
}
