// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/net/proxy"
)

// opened is a dialer that returns a connection that is open already.
type opened struct{ c net.Conn }

func (o opened) Dial(string, string) (net.Conn, error) { return o.c, nil }

func (o opened) DialContext(context.Context, string, string) (net.Conn, error) { return o.c, nil }

// socks asks a SOCKS5 proxy to connect to that address.
func (p *Proxy) socks(ctx context.Context, c net.Conn, to netip.AddrPort) error {
	var auth *proxy.Auth
	if p.User != "" {
		auth = &proxy.Auth{User: p.User, Password: p.Password}
	}
	d, err := proxy.SOCKS5("tcp", p.Addr.String(), auth, opened{c})
	if err != nil {
		return err
	}
	_, err = d.(proxy.ContextDialer).DialContext(ctx, "tcp", to.String())
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err // the rest names the proxy again
	}
	return err
}

// maxHeader limits the response of an HTTP proxy in bytes.
const maxHeader = 16 << 10

// connect asks an HTTP proxy to connect to that address.
func (p *Proxy) connect(c net.Conn, to netip.AddrPort) error {
	request := fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n", to, to)
	if p.User != "" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Password)) + "\r\n"
	}
	if _, err := c.Write([]byte(request + "\r\n")); err != nil {
		return err
	}
	// The server sends nothing before it receives the first message of TLS.
	r := bufio.NewReader(io.LimitReader(c, maxHeader))
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("read its response: %w", err)
	}
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("it does not connect to %s: HTTP status %s", to, resp.Status)
	case r.Buffered() > 0:
		return errors.New("it sent data before the server could")
	}
	return nil
}
