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

// replace answers a request to hand over.
func replace(w http.ResponseWriter, r *http.Request, ask func([]byte) (func(*net.UnixConn), error)) {
	terms, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTerms))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	take, err := ask(terms)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
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
// on which it does. Its error says why it does not: [ErrNobody], [ErrTooOld], or its own
// reasons. The caller speaks first.
func Replace(ctx context.Context, path string, terms []byte) (_ *net.UnixConn, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNobody, path)
	case err != nil:
		return nil, fmt.Errorf("talk to the Sotto on %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	// What it does before it answers (a cache to write, say) takes moments.
	end := time.Now().Add(time.Minute)
	if by, ok := ctx.Deadline(); ok {
		end = by
	}
	if err := c.SetDeadline(end); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sotto"+replacePath, bytes.NewReader(terms))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgrade)
	if err := req.Write(c); err != nil {
		return nil, fmt.Errorf("talk to the Sotto on %s: %w", path, err)
	}
	// It says no more than this before it is spoken to: nothing is read too far.
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return nil, fmt.Errorf("hear from the Sotto on %s: %w", path, err)
	}
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols:
		return c.(*net.UnixConn), c.SetDeadline(time.Time{})
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, ErrTooOld
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	if err != nil {
		return nil, fmt.Errorf("hear from the Sotto on %s: %w", path, err)
	}
	return nil, fmt.Errorf("the Sotto that runs does not hand over: %s", strings.TrimSpace(string(text)))
}
