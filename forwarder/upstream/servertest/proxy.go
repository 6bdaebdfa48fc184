// SPDX-License-Identifier: Apache-2.0

package servertest

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/internal/dnstest"
)

// Proxy is a proxy on loopback that accepts SOCKS5 and CONNECT on the same port, and
// requires the user "user" with the password "pass".
type Proxy struct {
	Addr    netip.AddrPort
	Carried atomic.Int64 // connections

	mu      sync.Mutex
	targets []string
}

// Targets returns the addresses to which clients asked to connect.
func (p *Proxy) Targets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.targets)
}

// NewProxy runs a proxy until the test ends.
func NewProxy(tb testing.TB) *Proxy {
	tb.Helper()
	l, err := dnstest.Listen(netip.AddrPortFrom(Loopback, 0))
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Addr: AddrOf(l.Addr())}
	var wg sync.WaitGroup
	var open sync.Map
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, true)
			wg.Go(func() {
				defer c.Close()
				if server := p.handshake(c); server != nil {
					open.Store(server, true)
					p.Carried.Add(1)
					wg.Go(func() { _, _ = io.Copy(server, c); server.Close() })
					_, _ = io.Copy(c, server)
				}
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return p
}

// handshake returns the connection to the server that the client asks for; nil if it is
// refused.
func (p *Proxy) handshake(c net.Conn) net.Conn {
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return nil
	}
	if first[0] == 5 {
		return p.socks(c)
	}
	return p.connect(c, first[0])
}

// dial connects to the server.
func (p *Proxy) dial(target string) (net.Conn, error) {
	p.mu.Lock()
	p.targets = append(p.targets, target)
	p.mu.Unlock()
	return net.Dial("tcp", target)
}

// connect serves CONNECT (RFC 9110 §9.3.6).
func (p *Proxy) connect(c net.Conn, first byte) net.Conn {
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytesReader(first), c)))
	if err != nil || r.Method != http.MethodConnect {
		return nil
	}
	if r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("user:pass")) {
		fmt.Fprint(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return nil
	}
	server, err := p.dial(r.Host)
	if err != nil {
		fmt.Fprint(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return nil
	}
	fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n")
	return server
}

// bytesReader returns a reader of one byte.
func bytesReader(b byte) io.Reader { return io.LimitReader(repeat(b), 1) }

type repeat byte

func (r repeat) Read(p []byte) (int, error) {
	p[0] = byte(r)
	return 1, nil
}

// socks serves SOCKS5 after the version (RFC 1928, RFC 1929).
func (p *Proxy) socks(c net.Conn) net.Conn {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	if methods := read(int(read(1)[0])); !slices.Contains(methods, 2) {
		_, _ = c.Write([]byte{5, 0xFF})
		return nil
	}
	_, _ = c.Write([]byte{5, 2})
	user := read(int(read(2)[1]))
	pass := read(int(read(1)[0]))
	if string(user) != "user" || string(pass) != "pass" {
		_, _ = c.Write([]byte{1, 1})
		return nil
	}
	_, _ = c.Write([]byte{1, 0})
	var host string
	switch head := read(4); head[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 4:
		host = net.IP(read(16)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	server, err := p.dial(net.JoinHostPort(host, fmt.Sprint(binary.BigEndian.Uint16(read(2)))))
	if err != nil {
		_, _ = c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}) // connection refused
		return nil
	}
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return server
}
