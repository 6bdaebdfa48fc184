// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"context"
	"crypto/tls"
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

// Config is what a [Server] is made of.
type Config struct {
	// Handler answers the queries. Required.
	Handler Handler

	// TLS, TCP and UDP are the sockets to serve, at least one in all. The
	// server closes them.
	TLS []net.Listener
	TCP []net.Listener
	UDP []net.PacketConn

	// Certificate is what the server shows. Required with TLS.
	Certificate tls.Certificate

	// MinVersion and MaxVersion bound the TLS version; 0: Go's own bounds.
	MinVersion uint16
	MaxVersion uint16

	// NoALPN makes the server one that does not know "dot" (RFC 7858 has no
	// ALPN; it was registered later).
	NoALPN bool

	// Accept, unless nil, sees every new connection before a byte of it was
	// read. The server leaves it alone when Accept returns false: it is
	// Accept's to close.
	Accept func(net.Conn) bool

	// IdleTimeout closes a connection that brought nothing for so long; 0:
	// never.
	IdleTimeout time.Duration

	// LogQueries is how many queries are kept for [Server.Log]; 0: none.
	LogQueries int

	// Log gets accept errors; nil: nobody.
	Log *slog.Logger
}

// Server is a DNS server. Its methods are safe for concurrent use.
type Server struct {
	cfg  Config
	tls  *tls.Config
	cert atomic.Pointer[tls.Certificate]
	counters
	log queryLog

	mu    sync.Mutex
	conns map[*conn]struct{}
	gone  bool // no more connections
	wg    sync.WaitGroup
	quit  chan struct{} // closed with the server
}

// New returns a Server, which serves nobody before [Server.Serve]. On an error
// the sockets stay the caller's.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Handler == nil:
		return nil, errors.New("make a DNS server: Config.Handler is nil")
	case len(cfg.TLS)+len(cfg.TCP)+len(cfg.UDP) == 0:
		return nil, errors.New("make a DNS server: Config has no sockets")
	case len(cfg.TLS) > 0 && len(cfg.Certificate.Certificate) == 0:
		return nil, errors.New("make a DNS server: TLS needs Config.Certificate")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, conns: make(map[*conn]struct{}), quit: make(chan struct{}), log: queryLog{limit: cfg.LogQueries}}
	s.SetCertificate(cfg.Certificate)
	s.tls = &tls.Config{
		MinVersion:     cfg.MinVersion,
		MaxVersion:     cfg.MaxVersion,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
	}
	if !cfg.NoALPN {
		s.tls.NextProtos = []string{"dot"}
	}
	return s, nil
}

// Listen opens a TCP listener in the calling thread's network namespace, for
// [Config].TLS or [Config].TCP.
func Listen(addr netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen on %s/tcp: %w", addr, err)
	}
	return l, nil
}

// ListenPlain opens TCP and UDP on one address in the calling thread's network
// namespace, for [Config].TCP and [Config].UDP. Port 0 picks one.
func ListenPlain(addr netip.AddrPort) (net.Listener, net.PacketConn, error) {
	const tries = 16 // a port that is free for TCP is seldom taken for UDP
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

// SetCertificate changes what later handshakes show. Sessions stay resumable.
func (s *Server) SetCertificate(c tls.Certificate) { s.cert.Store(&c) }

// Addr is the address of the first TLS socket, else of the first TCP, else of
// the first UDP socket.
func (s *Server) Addr() netip.AddrPort {
	switch {
	case len(s.cfg.TLS) > 0:
		return addrPort(s.cfg.TLS[0].Addr())
	case len(s.cfg.TCP) > 0:
		return addrPort(s.cfg.TCP[0].Addr())
	}
	return addrPort(s.cfg.UDP[0].LocalAddr())
}

// Stats are the counters so far.
func (s *Server) Stats() Stats { return s.stats() }

// Log is the first [Config].LogQueries queries.
func (s *Server) Log() []Logged { return s.log.entries() }

// Serve answers queries until ctx ends, then closes every socket and
// connection, and returns nil.
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

// Close closes every socket and connection, and waits for the latter to end.
// It is safe to call more than once; Serve calls it.
func (s *Server) Close() error {
	var errs []error
	for _, l := range append(append([]net.Listener(nil), s.cfg.TLS...), s.cfg.TCP...) {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	for _, pc := range s.cfg.UDP {
		errs = append(errs, ignoreClosed(pc.Close()))
	}
	s.mu.Lock()
	if !s.gone {
		s.gone = true
		close(s.quit)
	}
	s.mu.Unlock()
	s.EndConns(Reset)
	s.wg.Wait()
	return errors.Join(errs...)
}

// EndConns closes or resets every connection that is open.
func (s *Server) EndConns(how End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		// In a goroutine: close_notify may wait for a client that does not read.
		s.wg.Go(func() { c.end(how) })
	}
}

// accept serves the connections of one listener until it is closed.
func (s *Server) accept(l net.Listener, secure bool) error {
	const pause = 10 * time.Millisecond // out of descriptors: let some end
	for {
		nc, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.cfg.Log.Warn("accept a connection", "listener", l.Addr().String(), "err", err)
			time.Sleep(pause)
			continue
		}
		id := s.counters.conns.Add(1)
		if s.cfg.Accept != nil && !s.cfg.Accept(nc) {
			continue
		}
		c := newConn(s, nc, secure, id)
		if !s.adopt(c) {
			c.end(Reset)
		}
	}
}

// adopt runs c in a goroutine of its own, unless the server is closing.
func (s *Server) adopt(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
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
