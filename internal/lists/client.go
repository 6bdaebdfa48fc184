// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dialTimeout = 10 * time.Second // of one address, with the TLS handshake after it

	// idleTimeout is how long a server may send nothing.
	idleTimeout = 30 * time.Second

	maxRedirects = 5
)

// Lookup returns the addresses of a host.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// NewClient returns a client for a [Fetcher]. It resolves names with lookup only, uses no
// proxy, and refuses redirections to URLs that [CheckURL] refuses. control, unless nil, is
// called with every socket before it connects. roots are the trusted authorities; nil: the
// system's. The client keeps no connection open.
func NewClient(lookup Lookup, control func(network, address string, c syscall.RawConn) error, roots *x509.CertPool) *http.Client {
	d := dialer{lookup, net.Dialer{Timeout: dialTimeout, Control: control}}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           d.dial,
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: idleTimeout,
			DisableKeepAlives:     true,
			ForceAttemptHTTP2:     true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirections", maxRedirects)
			}
			return CheckURL(r.URL.String())
		},
	}
}

// CheckURL returns an error if a list cannot be fetched from a URL.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URL: want one such as https://lists.example/names.txt", text)
	case u.Scheme != "https":
		return fmt.Errorf("%q does not start with https://: any other transfer can be changed on its way", text)
	case u.Hostname() == "":
		return fmt.Errorf("%q names no host: want a URL such as https://lists.example/names.txt", text)
	case len(text) > MaxURL:
		return fmt.Errorf("it is longer than %d bytes", MaxURL)
	}
	return nil
}

// dialer connects to hosts whose names lookup resolves.
type dialer struct {
	lookup Lookup
	net.Dialer
}

// dial tries the addresses of a host one after the other.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	} else if addrs, err = d.lookup(ctx, host); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	err = fmt.Errorf("resolve %s: it has no address", host)
	for i, a := range addrs {
		c, dialErr := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if dialErr == nil {
			return &conn{Conn: c}, nil
		}
		if i == 0 {
			err = nil
		}
		err = errors.Join(err, dialErr)
	}
	return nil, err
}

// conn is a connection below TLS. Its Read fails when the server sends nothing for idleTimeout.
type conn struct {
	net.Conn
	ended atomic.Bool // Read has returned io.EOF
}

func (c *conn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	return n, err
}

// isCut reports whether a connection over TLS ended without a close_notify alert, after which
// nothing is read any more. crypto/tls accepts that between two records.
func isCut(c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	if !ok {
		return false
	}
	below, ok := t.NetConn().(*conn)
	return ok && below.ended.Load()
}
