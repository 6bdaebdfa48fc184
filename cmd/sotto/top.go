// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"sotto/internal/control"
	"sotto/internal/status"
	"sotto/internal/terminal"
	"sotto/internal/top"
)

func (e *env) topCommand() *cobra.Command {
	var o options
	var workload string
	c := &cobra.Command{
		Use:   "top [flags]",
		Short: "Show workloads, names and upstreams by rate, failures or time, live",
		Long: `  sudo sotto top
  sudo sotto top --workload docker:web     start with the names that a workload asks for

Fills the terminal with a table of workloads, of names or of upstreams, with their rates,
failures, times and a plot of the last minute. Tab changes the table, s the order, / filters,
enter shows the names of a workload, ? shows all keys, and q quits. When Sotto restarts or is
replaced, the table continues with the new process. It has no colours if the environment
variable NO_COLOR is set.

Without a terminal use 'sotto status --watch'.` + remoteHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return e.top(c, &o, workload) },
	}
	c.Flags().StringVar(&workload, "workload", "", "start with the names of this `workload`: a name such as docker:web, or a cgroup path and all below it")
	o.remoteFlags(c.Flags())
	return c
}

func (e *env) top(c *cobra.Command, o *options, workload string) error {
	in, _ := e.stdin.(*os.File)
	out, _ := e.stdout.(*os.File)
	if in == nil || out == nil || !terminal.Is(in) || !terminal.Is(out) || e.getenv("TERM") == "dumb" {
		return errors.New("top needs a terminal: use 'sotto status --watch'")
	}
	path, loadErr, err := o.controlPath(c)
	if err != nil {
		return err
	}
	ctx, stop := untilInterrupted(c.Context())
	defer stop()
	err = top.Run(ctx, source(path), top.Terminal{In: in, Out: out, Colour: e.getenv("NO_COLOR") == ""}, workload)
	if loadErr != nil && errors.Is(err, control.ErrNotRunning) {
		return loadErr
	}
	return err
}

// source reads the Sotto that listens at path, also after it was replaced.
func source(path string) top.Source {
	get := func(ctx context.Context, target string) (io.ReadCloser, error) {
		return control.Request(ctx, path, http.MethodGet, target, nil)
	}
	return top.Source{
		Status: func(ctx context.Context) (*status.Status, error) {
			body, err := get(ctx, "/v1/status")
			if err != nil {
				return nil, err
			}
			defer body.Close()
			var s status.Status
			if err := json.NewDecoder(body).Decode(&s); err != nil {
				return nil, fmt.Errorf("read the response of the running Sotto: %w", err)
			}
			return &s, nil
		},
		Trace: func(ctx context.Context) (io.ReadCloser, error) { return get(ctx, "/v1/trace") },
	}
}
