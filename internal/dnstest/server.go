// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config configures a [Server].
type Config struct {
	// Handler answers the queries. Required.
	Handler Handler

	// TLS, TCP and UDP are the sockets to serve, at least one in total. The server
	// closes them.
	TLS []net.Listener
	TCP []net.Listener
	UDP []net.PacketConn

	// Certificate is the server's certificate. Required with TLS.
	Certificate tls.Certificate

	// ClientCAs, unless nil, issue the certificates that clients must have.
	ClientCAs *x509.CertPool

	// MinVersion and MaxVersion limit the TLS version. 0: Go's defaults.
	MinVersion uint16
	MaxVersion uint16

	// Groups are the key exchanges that the server supports. Nil: Go's defaults.
	Groups []tls.CurveID

	// NoALPN disables the ALPN protocol "dot", which older servers do not support
	// (RFC 7858 does not define it; it was registered later).
	NoALPN bool

	// Accept, unless nil, is called with every new connection before the server
	// reads from it. If it returns false, it owns the connection and must close
	// it.
	Accept func(net.Conn) bool

	// IdleTimeout closes connections that sent nothing for this long. 0: never.
	IdleTimeout time.Duration

	// LogQueries is the number of queries stored for [Server.Log]. 0: none.
	LogQueries int

	// Log receives accept errors. Nil: they are discarded.
	Log *slog.Logger
}

// Server is a DNS server. Its methods are safe for concurrent use.
type Server struct {
	cfg  Config
	tls  *tls.Config
	cert atomic.Pointer[tls.Certificate]
	counters
	log queryLog

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool // no new connections
	wg     sync.WaitGroup
	done   chan struct{} // closed with the server
}

// New returns a Server. It serves once [Server.Serve] is called. On error, the caller
// keeps ownership of the sockets.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Handler == nil:
		return nil, errors.New("create DNS server: Config.Handler is nil")
	case len(cfg.TLS)+len(cfg.TCP)+len(cfg.UDP) == 0:
		return nil, errors.New("create DNS server: Config has no sockets")
	case len(cfg.TLS) > 0 && len(cfg.Certificate.Certificate) == 0:
		return nil, errors.New("create DNS server: TLS needs Config.Certificate")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, conns: make(map[*conn]struct{}), done: make(chan struct{}), log: queryLog{limit: cfg.LogQueries}}
	s.SetCertificate(cfg.Certificate)
	s.tls = &tls.Config{
		MinVersion:       cfg.MinVersion,
		MaxVersion:       cfg.MaxVersion,
		CurvePreferences: cfg.Groups,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
	}
	if cfg.ClientCAs != nil {
		s.tls.ClientCAs, s.tls.ClientAuth = cfg.ClientCAs, tls.RequireAndVerifyClientCert
	}
	if !cfg.NoALPN {
		s.tls.NextProtos = []string{"dot"}
	}
	return s, nil
}

// Listen opens a TCP listener in the network namespace of the calling thread, for
// [Config].TLS or [Config].TCP.
func Listen(addr netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen on %s/tcp: %w", addr, err)
	}
	return l, nil
}

// ListenPlain opens TCP and UDP sockets on one address in the network namespace of the
// calling thread, for [Config].TCP and [Config].UDP. Port 0 selects a free port.
func ListenPlain(addr netip.AddrPort) (net.Listener, net.PacketConn, error) {
	const tries = 16 // a port that is free for TCP is rarely in use for UDP
	var errs error
	for range tries {
		l, err := Listen(addr)
		if err != nil {
			return nil, nil, err
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc, nil
		}
		errs = errors.Join(fmt.Errorf("listen on %s/udp: %w", l.Addr(), err), l.Close())
		if addr.Port() != 0 {
			break
		}
	}
	return nil, nil, errs
}

// SetCertificate replaces the certificate for later handshakes. Existing sessions can
// still be resumed.
func (s *Server) SetCertificate(c tls.Certificate) { s.cert.Store(&c) }

// Addr returns the address of the first TLS socket, else of the first TCP socket, else
// of the first UDP socket.
func (s *Server) Addr() netip.AddrPort {
	switch {
	case len(s.cfg.TLS) > 0:
		return addrPort(s.cfg.TLS[0].Addr())
	case len(s.cfg.TCP) > 0:
		return addrPort(s.cfg.TCP[0].Addr())
	}
	return addrPort(s.cfg.UDP[0].LocalAddr())
}

// Stats returns the current counters.
func (s *Server) Stats() Stats { return s.stats() }

// Log returns the first [Config].LogQueries queries.
func (s *Server) Log() []Logged { return s.log.entries() }

// Serve answers queries until ctx is done. It then closes all sockets and connections
// and returns nil.
func (s *Server) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	for _, l := range s.cfg.TLS {
		g.Go(func() error { return s.accept(l, true) })
	}
	for _, l := range s.cfg.TCP {
		g.Go(func() error { return s.accept(l, false) })
	}
	for _, pc := range s.cfg.UDP {
		g.Go(func() error { return s.serveUDP(pc) })
	}
	err := g.Wait()
	return errors.Join(err, s.Close())
}

// Close closes all sockets and connections and waits for the goroutines of the
// connections. Serve calls it. It may be called more than once.
func (s *Server) Close() error {
	var errs []error
	for _, l := range append(append([]net.Listener(nil), s.cfg.TLS...), s.cfg.TCP...) {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	for _, pc := range s.cfg.UDP {
		errs = append(errs, ignoreClosed(pc.Close()))
	}
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	s.mu.Unlock()
	s.EndConns(Reset)
	s.wg.Wait()
	return errors.Join(errs...)
}

// EndConns closes or resets all open connections.
func (s *Server) EndConns(how End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		// In a goroutine: sending close_notify blocks if the client does not read.
		s.wg.Go(func() { c.close(how) })
	}
}

// accept serves the connections of one listener until it is closed.
func (s *Server) accept(l net.Listener, secure bool) error {
	const pause = 10 * time.Millisecond // out of descriptors: wait until some are closed
	for {
		nc, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.cfg.Log.Warn("accept failed", "listener", l.Addr().String(), "err", err)
			time.Sleep(pause)
			continue
		}
		id := s.counters.conns.Add(1)
		if s.cfg.Accept != nil && !s.cfg.Accept(nc) {
			continue
		}
		c := newConn(s, nc, secure, id)
		if !s.start(c) {
			c.close(Reset)
		}
	}
}

// start runs c in a new goroutine. It reports false if the server is closed.
func (s *Server) start(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	s.open.Add(1)
	s.wg.Go(func() {
		c.run()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.open.Add(-1)
	})
	return true
}

// handle counts and answers one query.
func (s *Server) handle(r *Request) Answer {
	s.queries[r.Transport].Add(1)
	s.log.add(r)
	return s.cfg.Handler.Answer(r)
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return unmap(a.AddrPort())
	case *net.UDPAddr:
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
