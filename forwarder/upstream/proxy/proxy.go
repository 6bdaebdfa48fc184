// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
)

// Proxy is a proxy and how to authenticate to it.
type Proxy struct {
	Scheme   string // SOCKS5 or HTTP
	Addr     netip.AddrPort
	User     string // "" if it requires no authentication
	Password string
}

// Schemes of a [Proxy].
const (
	SOCKS5 = "socks5"
	HTTP   = "http"
)

// Parse parses socks5://[USER:PASSWORD@]ADDR:PORT or http://[USER:PASSWORD@]ADDR:PORT.
// Special characters in USER and PASSWORD are escaped as in URLs. socks5h means the same as
// socks5.
func Parse(s string) (*Proxy, error) {
	const syntax = "want socks5://ADDR:PORT or http://ADDR:PORT, with USER:PASSWORD@ before ADDR if the proxy requires it"
	u, err := url.Parse(s)
	if err != nil { // the error contains the password
		return nil, fmt.Errorf("the proxy is not a URL: %s", syntax)
	}
	p := &Proxy{Scheme: u.Scheme}
	switch u.Scheme {
	case SOCKS5, HTTP:
	case "socks5h":
		p.Scheme = SOCKS5
	case "https":
		return nil, fmt.Errorf("a proxy over HTTPS is not supported: use http://, the queries are encrypted for the upstream")
	default:
		return nil, fmt.Errorf("%q is not a kind of proxy: %s", u.Scheme, syntax)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return nil, fmt.Errorf("the proxy has more than an address: %s", syntax)
	}
	if p.Addr, err = netip.ParseAddrPort(u.Host); err != nil || p.Addr.Port() == 0 || p.Addr.Addr().IsUnspecified() || p.Addr.Addr().IsMulticast() {
		return nil, fmt.Errorf("%q is not an IP address and a port: resolving a name would need plain DNS; %s", u.Host, syntax)
	}
	p.Addr = netip.AddrPortFrom(p.Addr.Addr().Unmap(), p.Addr.Port())
	p.User = u.User.Username()
	p.Password, _ = u.User.Password()
	const most = 255 // RFC 1929 §2
	if p.Scheme == SOCKS5 && u.User != nil && (p.User == "" || p.Password == "" || len(p.User) > most || len(p.Password) > most) {
		return nil, fmt.Errorf("the user or the password for the proxy is empty or longer than %d bytes: %s", most, syntax)
	}
	return p, nil
}

// String returns the proxy without user and password.
func (p *Proxy) String() string { return p.Scheme + "://" + p.Addr.String() }

// Error means that a proxy could not be reached or did not connect to the server.
type Error struct {
	Proxy string
	Err   error
}

func (e *Error) Error() string { return "the proxy " + e.Proxy + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Dial connects to a server through the proxy. dialer opens the connection to the proxy.
// Errors, apart from that of ctx, are an [*Error].
func (p *Proxy) Dial(ctx context.Context, dialer *net.Dialer, to netip.AddrPort) (*net.TCPConn, error) {
	c, err := dialer.DialContext(ctx, "tcp", p.Addr.String())
	if err != nil {
		return nil, &Error{Proxy: p.String(), Err: err}
	}
	tcp := c.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
	if p.Scheme == SOCKS5 {
		err = p.socks(ctx, tcp, to)
	} else {
		err = p.connect(tcp, to)
	}
	if !stop() && err == nil {
		err = ctx.Err() // it was closed
	}
	if err == nil {
		return tcp, nil
	}
	_ = tcp.Close()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded): // of ctx, set on the socket
		return nil, context.DeadlineExceeded
	}
	return nil, &Error{Proxy: p.String(), Err: err}
}
