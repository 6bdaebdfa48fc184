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
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	// HTTP requires a host; it is not used.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sotto/reload", nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s: start one, or name its socket with --control", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("connect to the Sotto on %s: %w: run this as the same user, or as root", path, err)
	case err != nil:
		return fmt.Errorf("connect to the Sotto on %s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	err = errors.Join(err, resp.Body.Close())
	if err != nil {
		return fmt.Errorf("read the response of the Sotto on %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}
