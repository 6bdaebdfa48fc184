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

	// upgrade is what the connection becomes (RFC 9110 §7.8).
	upgrade = "sotto-handover"

	// maxTerms bounds a request's body.
	maxTerms = 64 << 10
)

// ErrTooOld says that the Sotto that runs cannot hand over.
var ErrTooOld = errors.New("the Sotto that runs is too old to hand over, or does not seal: stop it first, and start this one without --replace")

// ErrBusy says that the Sotto that runs cannot hand over at the moment: it is about to
// exit, or to be replaced by another process. What comes of that decides; ask again.
var ErrBusy = errors.New("the Sotto that runs does not hand over now")

// replace answers a request to hand over.
func replace(w http.ResponseWriter, r *http.Request, ask func([]byte) (func(*net.UnixConn), error)) {
	terms, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTerms))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	take, err := ask(terms)
	if err != nil {
		status := http.StatusUnprocessableEntity
		if errors.Is(err, ErrBusy) {
			status = http.StatusServiceUnavailable
		}
		http.Error(w, err.Error(), status)
		return
	}
	// From here on somebody waits for the connection, in whatever state: one that is
	// broken ends the conversation.
	c, _, err := http.NewResponseController(w).Hijack()
	u, ok := c.(*net.UnixConn)
	if err != nil || !ok { // by HTTP/1.1 over this listener neither can be
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

// Replace asks the Sotto that listens at path to hand over, and returns the connection
// on which it does. Its error says why it does not: [ErrNobody], also where that Sotto
// exits before it answers, [ErrBusy], [ErrTooOld], or its own reasons. The end of ctx ends
// the wait for the answer. The caller speaks first.
func Replace(ctx context.Context, path string, terms []byte) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNobody, path)
	case err != nil:
		return nil, fmt.Errorf("talk to the Sotto on %s: %w", path, err)
	}
	// What it does before it answers (a cache to write, say) takes moments.
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
	case !stop(): // and no answer counts
		err = ctx.Err()
	case hasExited(err):
		err = fmt.Errorf("%w on %s: it exited before it answered", ErrNobody, path)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c.(*net.UnixConn), c.SetDeadline(time.Time{})
}

// askReplace sends the request, and returns nil if it was granted.
func askReplace(ctx context.Context, c net.Conn, path string, terms []byte) error {
	failed := func(err error) error { return fmt.Errorf("talk to the Sotto on %s: %w", path, err) }
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sotto"+replacePath, bytes.NewReader(terms))
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	if err := req.Write(c); err != nil {
		return failed(err)
	}
	// It says no more than this before it is spoken to: nothing is read too far.
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
		return fmt.Errorf("%w%s", ErrBusy, strings.TrimPrefix(reason, ErrBusy.Error()))
	}
	return fmt.Errorf("the Sotto that runs does not hand over: %s", reason)
}

// hasExited reports whether err says that the other process closed the connection.
func hasExited(err error) bool {
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}
