// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

const (
	replacePath = "/replace"

	// upgrade is the protocol that the connection switches to (RFC 9110 §7.8).
	upgrade = "sotto-handover"

	// maxTerms limits the body of a request.
	maxTerms = 64 << 10
)

// ErrTooOld means that the running Sotto does not support takeovers.
var ErrTooOld = errors.New("the running Sotto is too old to hand over, or is not a 'sotto run': stop it first, and start this one without --replace")

// ErrBusy means that the running Sotto cannot hand over now, because it is stopping or
// handing over to another process. The client may retry.
var ErrBusy = errors.New("the running Sotto cannot hand over now")

// replace handles a request to hand over.
func replace(w http.ResponseWriter, r *http.Request, accept func([]byte) (func(*net.UnixConn), error)) {
	terms, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTerms))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	take, err := accept(terms)
	if err != nil {
		status := http.StatusUnprocessableEntity
		if errors.Is(err, ErrBusy) {
			status = http.StatusServiceUnavailable
		}
		http.Error(w, err.Error(), status)
		return
	}
	// From here on take must be called, even with a broken connection: it ends the takeover.
	c, _, err := http.NewResponseController(w).Hijack()
	u, ok := c.(*net.UnixConn)
	if err != nil || !ok { // impossible with HTTP/1.1 over this listener
		panic(http.ErrAbortHandler)
	}
	_ = u.SetDeadline(time.Now().Add(readTime))
	_, err = fmt.Fprintf(u, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgrade)
	if err != nil {
		_ = u.Close()
	}
	_ = u.SetDeadline(time.Time{})
	take(u)
}

// Replace asks the Sotto that listens at path to hand over, and returns the connection for
// the messages of package takeover. The error is [ErrNotRunning], also if that Sotto exits
// before it responds, [ErrBusy], [ErrTooOld], or the reason that it sent. The end of ctx
// ends the wait for the response. The caller sends the first message.
func Replace(ctx context.Context, path string, terms []byte) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNotRunning, path)
	case err != nil:
		return nil, fmt.Errorf("connect to the Sotto on %s: %w", path, err)
	}
	// Before it responds it may have to write its cache.
	end := time.Now().Add(time.Minute)
	if by, ok := ctx.Deadline(); ok {
		end = by
	}
	if err := c.SetDeadline(end); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = askReplace(ctx, c, path, terms)
	switch {
	case !stop(): // ctx ended, and the response is ignored
		err = ctx.Err()
	case hasExited(err):
		err = fmt.Errorf("%w on %s: it exited before it responded", ErrNotRunning, path)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c.(*net.UnixConn), c.SetDeadline(time.Time{})
}

// askReplace sends the request, and returns nil if it was accepted.
func askReplace(ctx context.Context, c net.Conn, path string, terms []byte) error {
	failed := func(err error) error { return fmt.Errorf("connect to the Sotto on %s: %w", path, err) }
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sotto"+replacePath, bytes.NewReader(terms))
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	if err := req.Write(c); err != nil {
		return failed(err)
	}
	// Nothing follows the header until this process sends a message, so the buffer holds no
	// message.
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return failed(err)
	}
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols:
		return nil
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return ErrTooOld
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	if err != nil {
		return failed(err)
	}
	reason := strings.TrimSpace(string(text))
	if resp.StatusCode == http.StatusServiceUnavailable {
		// The first part is the other version's text of ErrBusy.
		if _, why, ok := strings.Cut(reason, ": "); ok {
			reason = why
		}
		return fmt.Errorf("%w: %s", ErrBusy, reason)
	}
	return fmt.Errorf("the running Sotto does not hand over: %s", reason)
}

// hasExited reports whether err means that the other process closed the connection.
func hasExited(err error) bool {
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}
