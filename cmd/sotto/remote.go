// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sotto/internal/config"
	"sotto/internal/control"
)

// requestTimeout is longer than a request takes that is not a stream.
const requestTimeout = 10 * time.Second

// remoteFlags adds the flags by which the running Sotto is found.
func (o *options) remoteFlags(fs *pflag.FlagSet) {
	o.configFlag(fs)
	o.controlFlag(fs)
}

// remoteHelp ends the help text of commands that ask the running Sotto.
const remoteHelp = `

The process is found by its control socket: the one given with --control, else the one
that the configuration names, else ` + config.DefaultControl + `.`

// controlPath finds the control socket. With --control it does not read the configuration. If
// the configuration is invalid it returns the default socket and the error as loadErr, which
// matters only if no Sotto listens there: a running process still has the last valid one.
func (o *options) controlPath(c *cobra.Command) (path string, loadErr, err error) {
	s := config.Default()
	if !c.Flags().Changed("control") {
		if s, loadErr = config.Load(o.config); loadErr != nil {
			s = config.Default()
		}
	}
	o.override(c, &s)
	if o.probe != "" {
		return o.probe, nil, nil
	}
	if path = s.ControlPath(config.DefaultControl); path == "" {
		return "", nil, fmt.Errorf("control is %q: send SIGHUP to the process, or name a socket with --control", config.ControlOff)
	}
	return path, loadErr, nil
}

// stream sends a request to the running Sotto and returns the body of the response, which the
// caller closes.
func (o *options) stream(ctx context.Context, c *cobra.Command, method, target string, query url.Values) (io.ReadCloser, error) {
	path, loadErr, err := o.controlPath(c)
	if err != nil {
		return nil, err
	}
	body, err := control.Request(ctx, path, method, target, query)
	if loadErr != nil && errors.Is(err, control.ErrNotRunning) {
		return nil, loadErr
	}
	return body, err
}

// request sends a request to the running Sotto and returns the whole response.
func (o *options) request(c *cobra.Command, method, target string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.Context(), requestTimeout)
	defer cancel()
	body, err := o.stream(ctx, c, method, target, query)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(body)
	return text, errors.Join(err, body.Close())
}

// get decodes the JSON response to a GET request into v.
func (o *options) get(c *cobra.Command, target string, query url.Values, v any) error {
	text, err := o.request(c, http.MethodGet, target, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read the response of the running Sotto: %w", err)
	}
	return nil
}

// printJSON prints v, indented.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
