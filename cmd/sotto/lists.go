// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"sotto/internal/status"
)

// updateTimeout is longer than a fetch may take.
const updateTimeout = 15 * time.Minute

func (e *env) listsCommand() *cobra.Command {
	var o options
	var asJSON bool
	c := &cobra.Command{
		Use:   "lists [flags]",
		Short: "Show the lists of names that rules use",
		Long: `  sudo sotto lists           when each list was fetched, and how many names it has
  sudo sotto lists update    fetch all lists now

Lists are the URLs in the setting "lists" of a rule.` + remoteHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.lists(&o, c, http.MethodGet, "/v1/lists", requestTimeout, asJSON)
		},
	}
	update := &cobra.Command{
		Use:   "update [flags]",
		Short: "Fetch all lists now",
		Long: `  sudo sotto lists update

Fetches all lists that have changed, and waits until they are in force. A list that cannot be
fetched, or is broken, stays as it was; the exit status is then 1.` + remoteHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.lists(&o, c, http.MethodPost, "/v1/lists/update", updateTimeout, asJSON)
		},
	}
	for _, c := range []*cobra.Command{c, update} {
		c.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
		o.remoteFlags(c.Flags())
	}
	c.AddCommand(update)
	return c
}

// lists sends a request whose response is the state of the lists, and prints that. After an
// update it fails if a list could not be fetched.
func (e *env) lists(o *options, c *cobra.Command, method, target string, timeout time.Duration, asJSON bool) error {
	ctx, cancel := context.WithTimeout(c.Context(), timeout)
	defer cancel()
	body, err := o.stream(ctx, c, method, target, nil)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		return err
	}
	all := []status.List{}
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("read the response of the running Sotto: %w", err)
	}
	if asJSON {
		err = e.printJSON(all)
	} else {
		err = status.ListsText(e.stdout, all, time.Now())
	}
	if err != nil || method == http.MethodGet {
		return err
	}
	failed := 0
	for _, l := range all {
		if l.Error != "" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d lists could not be fetched", failed, len(all))
	}
	return nil
}
