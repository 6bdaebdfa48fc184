// SPDX-License-Identifier: Apache-2.0

package servertest

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// Web is a DNS-over-HTTPS server on loopback, with HTTP/2 or HTTP/3. Its fields are set
// before it is used.
type Web struct {
	// Intercept, unless nil, may answer a request itself, and returns true then.
	Intercept func(w http.ResponseWriter, r *http.Request) bool
	// TLS, unless nil, changes the configuration of TLS.
	TLS func(*tls.Config)

	Addr                     netip.AddrPort
	Requests, Conns, Resumed atomic.Int64

	tb      testing.TB
	handler dnstest.Handler
	mu      sync.Mutex
	open    map[net.Conn]bool
	stop    func()
}

// ServeWeb runs a server for [transport.DoH] or [transport.DoH3] until the test ends.
// change, unless nil, may set the fields.
func ServeWeb(tb testing.TB, p transport.Protocol, h dnstest.Handler, change func(*Web)) *Web {
	tb.Helper()
	w := &Web{tb: tb, handler: h, open: make(map[net.Conn]bool), Addr: netip.AddrPortFrom(Loopback, 0)}
	if change != nil {
		change(w)
	}
	w.Start(p)
	tb.Cleanup(func() { w.Stop() })
	return w
}

// Server returns the server as an upstream, by name.
func (w *Web) Server(p transport.Protocol) transport.Server {
	return transport.Server{Protocol: p, Addr: w.Addr, Name: Name}
}

// Start runs the server, at the address that it had before if it was stopped.
func (w *Web) Start(p transport.Protocol) {
	w.tb.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{Issue(w.tb, dnstest.CertOptions{})}, NextProtos: []string{"h2", "http/1.1"}}
	if w.TLS != nil {
		w.TLS(config)
	}
	if p == transport.DoH3 {
		w.startQUIC(config)
		return
	}
	l, err := dnstest.Listen(w.Addr)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.Addr = netip.MustParseAddrPort(l.Addr().String())
	s := &http.Server{
		Handler: w, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
		ConnState: func(c net.Conn, state http.ConnState) {
			w.mu.Lock()
			defer w.mu.Unlock()
			switch state {
			case http.StateNew:
				w.Conns.Add(1)
				w.open[c] = true
			case http.StateClosed:
				delete(w.open, c)
			}
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			w.tb.Errorf("serve: %v", err)
		}
	}()
	w.stop = func() {
		_ = s.Close()
		<-done
	}
}

// startQUIC runs the server over HTTP/3.
func (w *Web) startQUIC(config *tls.Config) {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(w.Addr))
	if err != nil {
		w.tb.Fatal(err)
	}
	w.Addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	t := &quic.Transport{Conn: pc, StatelessResetKey: &quic.StatelessResetKey{1}}
	config.NextProtos = nil
	l, err := t.ListenEarly(http3.ConfigureTLSConfig(config), nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	s := &http3.Server{Handler: w}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			w.Conns.Add(1)
			wg.Go(func() { _ = s.ServeQUICConn(c) })
		}
	})
	w.stop = func() {
		_ = s.Close()
		_ = l.Close()
		_ = t.Close()
		_ = pc.Close()
		wg.Wait()
	}
}

// Stop closes the listener and all connections.
func (w *Web) Stop() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// CloseConns resets all connections of HTTP/2.
func (w *Web) CloseConns() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		raw := c
		if t, ok := c.(*tls.Conn); ok {
			raw = t.NetConn()
		}
		_ = raw.(*net.TCPConn).SetLinger(0)
		_ = raw.Close()
	}
}

// ServeHTTP implements [http.Handler].
func (w *Web) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w.Requests.Add(1)
	if r.TLS.DidResume {
		w.Resumed.Add(1)
	}
	if w.Intercept != nil && w.Intercept(out, r) {
		return
	}
	query, err := ReadQuery(r)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	a := w.handler.Answer(&dnstest.Request{Query: query, Transport: dnstest.TLS, N: 1})
	if a.Delay > 0 {
		time.Sleep(a.Delay)
	}
	if a.Wait != nil {
		select {
		case <-a.Wait:
		case <-r.Context().Done():
			return
		}
	}
	if a.Msg == nil {
		<-r.Context().Done()
		return
	}
	out.Header().Set("Content-Type", "application/dns-message")
	_, _ = out.Write(a.Msg)
}

// ReadQuery returns the DNS message of a request.
func ReadQuery(r *http.Request) ([]byte, error) {
	if r.Method == http.MethodGet {
		return base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
	}
	return io.ReadAll(io.LimitReader(r.Body, 1<<16))
}
