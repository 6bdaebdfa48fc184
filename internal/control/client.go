// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// maxReason limits the text of an error that is read from a response.
const maxReason = 64 << 10

// ErrNotRunning means that no process listens on the control socket, or that it does not
// exist.
var ErrNotRunning = errors.New("no Sotto listens")

// Reload asks the Sotto that listens at path to reload its configuration, and waits until
// the new one is in force. The error explains why it is not.
func Reload(ctx context.Context, path string) error {
	body, err := Request(ctx, path, http.MethodPost, "/reload", nil)
	if err != nil {
		return err
	}
	return body.Close()
}

// Request sends a request to the Sotto that listens at path, and returns the body of the
// response, which the caller closes. The body may be a stream that ends only with ctx. If the
// process refuses the request, the error is the reason that it gave.
func Request(ctx context.Context, path, method, target string, query url.Values) (io.ReadCloser, error) {
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	// HTTP requires a host; it is not used.
	u := url.URL{Scheme: "http", Host: "sotto", Path: target, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.RoundTrip(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s: start one, or name its socket with --control", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("connect to the Sotto on %s: %w: run this as root, as the user that Sotto runs as, or to read as a member of its control-group", path, err)
	case err != nil:
		return nil, fmt.Errorf("connect to the Sotto on %s: %w", path, err)
	case resp.StatusCode == http.StatusOK:
		return resp.Body, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("read the response of the Sotto on %s: %w", path, err)
	}
	if resp.StatusCode == http.StatusNotFound && target != "/reload" {
		return nil, fmt.Errorf("the Sotto on %s is another version, which does not support this", path)
	}
	return nil, errors.New(strings.TrimSpace(string(text)))
}
