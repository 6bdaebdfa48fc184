// SPDX-License-Identifier: Apache-2.0

package httpdns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sotto/forwarder/upstream/streams"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

const (
	// maxRedirects limits the redirections of one query.
	maxRedirects = 3

	// defaultPause is how long a server that is overloaded gets no query if it does not say
	// for how long.
	defaultPause = time.Second
)

// StatusError is a response with a status that is not 200.
type StatusError struct {
	Code int
	Path string // of the request
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server replied with HTTP status %d %s to %s", e.Code, http.StatusText(e.Code), e.Path)
}

// Exchange sends a query, which has ID 0, and returns the reply, with ID 0. roundTrip sends
// a request; its errors and those of the response's body are returned unchanged. Failures
// that the server reports are a [streams.QueryError] or [streams.PauseError].
func (e *Endpoint) Exchange(ctx context.Context, query []byte, roundTrip func(*http.Request) (*http.Response, error)) ([]byte, error) {
	u := e.url.Load()
	for range 1 + maxRedirects {
		resp, err := roundTrip(e.request(ctx, u, query))
		if err != nil {
			return nil, err
		}
		if isRedirect(resp.StatusCode) {
			_ = resp.Body.Close()
			if u, err = e.redirect(u, resp); err != nil {
				return nil, &streams.QueryError{Err: err}
			}
			continue
		}
		return e.reply(u, query, resp)
	}
	return nil, &streams.QueryError{Err: fmt.Errorf("the server redirected the query more than %d times", maxRedirects)}
}

// isRedirect reports whether a status refers to another URL to which the same request is
// sent. A 303 does not: it refers to a result.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirect returns the URL to which a response redirects. It has to be of the same origin:
// another one could be a server that the configuration does not name. A permanent
// redirection applies to later queries as well.
func (e *Endpoint) redirect(from *url.URL, resp *http.Response) (*url.URL, error) {
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, fmt.Errorf("the server sent HTTP status %d without a valid location", resp.StatusCode)
	}
	if to.Scheme != "https" || !strings.EqualFold(withoutPort(to.Host), withoutPort(from.Host)) {
		return nil, fmt.Errorf("the server redirects to another one, %s: use that as the upstream if you trust it", to.Host)
	}
	to = &url.URL{Scheme: to.Scheme, Host: from.Host, Path: to.Path, RawPath: to.RawPath, RawQuery: to.RawQuery}
	if e.get { // the query is added again
		values := to.Query()
		values.Del("dns")
		to.RawQuery = values.Encode()
	}
	if resp.StatusCode == http.StatusMovedPermanently || resp.StatusCode == http.StatusPermanentRedirect {
		e.url.Store(to)
	}
	return to, nil
}

// reply reads the reply of a response that is not a redirection.
func (e *Endpoint) reply(u *url.URL, query []byte, resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(u, resp)
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || media != MediaType {
		return nil, &streams.QueryError{Err: fmt.Errorf("the server sent %q instead of a DNS message: is the path %s right?", media, u.Path)}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxMessage+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > wire.MaxMessage:
		return nil, &streams.QueryError{Err: fmt.Errorf("%w: it is longer than %d bytes", transport.ErrMalformed, wire.MaxMessage)}
	}
	reply, err := transport.AcceptReply(query, body)
	if err != nil {
		return nil, &streams.QueryError{Err: err}
	}
	if age, limit := lifetime(resp.Header); age > 0 || limit < math.MaxUint32 {
		_ = wire.AgeTTLs(reply, age, limit) // a reply that does not parse is handled elsewhere
	}
	return reply, nil
}

// statusError returns the error of a response that has no DNS message.
func statusError(u *url.URL, resp *http.Response) error {
	err := &StatusError{Code: resp.StatusCode, Path: u.Path}
	after, hasAfter := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && hasAfter:
		return &streams.PauseError{For: after, Err: err}
	}
	return &streams.QueryError{Err: err}
}

// retryAfter parses a Retry-After header (RFC 9110 §10.2.3). Without a valid one it returns
// defaultPause and false.
func retryAfter(s string, now time.Time) (d time.Duration, ok bool) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now)), true
	}
	return defaultPause, false
}

// lifetime returns by how much the TTLs of a response are reduced, and what limits them
// then, in seconds (RFC 8484 §5.1, RFC 9111 §5.1 and §5.2.2.1).
func lifetime(h http.Header) (age, limit uint32) {
	limit = math.MaxUint32
	if n, err := parseSeconds(h.Get("Age")); err == nil {
		age = n
	}
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if n, err := parseSeconds(strings.Trim(value, `"`)); err == nil && strings.EqualFold(name, "max-age") {
				limit = min(limit, n-min(n, age))
			}
		}
	}
	return age, limit
}

// parseSeconds parses a number of seconds. A greater one than 2^31 counts as that (RFC 9111
// §1.2.2).
func parseSeconds(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, err
	}
	return uint32(min(n, 1<<31)), nil
}
