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

// maxReason is how much of an error's text is read.
const maxReason = 64 << 10

// ErrNobody says that there is no control socket, or nobody on it.
var ErrNobody = errors.New("no Sotto listens")

// Reload asks the Sotto that listens at path to read its configuration again,
// and waits until that is in force. Its error says why it is not.
func Reload(ctx context.Context, path string) error {
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	// The host is part of HTTP, and of nothing here.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sotto/reload", nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w on %s: start one, or name its socket with --control", ErrNobody, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("talk to the Sotto on %s: %w: ask as the user that it runs as, or root", path, err)
	case err != nil:
		return fmt.Errorf("talk to the Sotto on %s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	err = errors.Join(err, resp.Body.Close())
	if err != nil {
		return fmt.Errorf("hear from the Sotto on %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}
