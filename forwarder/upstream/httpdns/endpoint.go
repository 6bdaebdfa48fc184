// SPDX-License-Identifier: Apache-2.0

package httpdns

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"sotto/forwarder/upstream/transport"
)

// MediaType is the type of a DNS message (RFC 8484 §6).
const MediaType = "application/dns-message"

// DefaultPath is the path that most servers use.
const DefaultPath = "/dns-query"

// Endpoint is the URL of one server. Its methods are safe for concurrent use.
type Endpoint struct {
	get   bool // use GET
	param byte // what separates the query from the URL: '?' or '&'
	url   atomic.Pointer[url.URL]
}

// New returns the Endpoint of a server whose path [CheckPath] accepts.
func New(s transport.Server) (*Endpoint, error) {
	path, param := splitTemplate(s.Path)
	if path == "" {
		path = DefaultPath
	}
	u, err := url.Parse("https://" + authority(s) + path)
	if err != nil {
		return nil, fmt.Errorf("read the URL of %s: %w", s, err)
	}
	e := &Endpoint{get: param != 0, param: param}
	e.url.Store(u)
	return e, nil
}

// splitTemplate splits the template variable from a path. param is the character that it
// starts with; 0 if there is none.
func splitTemplate(s string) (path string, param byte) {
	for _, variable := range []string{"{?dns}", "{&dns}"} {
		if path, ok := strings.CutSuffix(s, variable); ok {
			return path, variable[1]
		}
	}
	return s, 0
}

// CheckPath returns an error if a path, possibly with a template variable, is not valid.
// An empty one means [DefaultPath].
func CheckPath(s string) error {
	path, _ := splitTemplate(s)
	if path == "" {
		return nil
	}
	u, err := url.Parse("https://host" + path)
	if err != nil || !strings.HasPrefix(path, "/") || u.Host != "host" || u.Fragment != "" || strings.ContainsAny(path, "{} ") {
		return fmt.Errorf("%q is not the path of a URL: want a path like %s, or %s{?dns} for GET", s, DefaultPath, DefaultPath)
	}
	return nil
}

// authority returns the authority of a server's URL.
func authority(s transport.Server) string {
	switch {
	case s.Host != "":
		return s.Host
	case s.Name == "":
		return withoutPort(netip.AddrPortFrom(s.Addr.Addr().WithZone(""), s.Addr.Port()).String())
	case s.Addr.Port() != 443:
		return s.Name + ":" + strconv.Itoa(int(s.Addr.Port()))
	}
	return s.Name
}

// withoutPort removes the default port from an authority.
func withoutPort(host string) string { return strings.TrimSuffix(host, ":443") }

// Request returns the request of a query, which has ID 0.
func (e *Endpoint) Request(ctx context.Context, query []byte) *http.Request {
	return e.request(ctx, e.url.Load(), query)
}

// request returns the request of a query to that URL.
func (e *Endpoint) request(ctx context.Context, u *url.URL, query []byte) *http.Request {
	r := &http.Request{
		Method: http.MethodPost, URL: u, Host: u.Host, Proto: "HTTP/2.0", ProtoMajor: 2,
		// Without a value of its own net/http sends "Go-http-client".
		Header: http.Header{"Accept": {MediaType}, "User-Agent": {""}},
	}
	if e.get {
		withQuery := *u
		query := "dns=" + base64.RawURLEncoding.EncodeToString(query)
		if e.param == '&' && u.RawQuery != "" {
			query = u.RawQuery + "&" + query
		}
		withQuery.RawQuery = query
		r.Method, r.URL = http.MethodGet, &withQuery
		return r.WithContext(ctx)
	}
	r.Header["Content-Type"] = []string{MediaType}
	r.ContentLength = int64(len(query))
	r.Body = io.NopCloser(bytes.NewReader(query))
	return r.WithContext(ctx)
}
