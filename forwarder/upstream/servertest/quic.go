// SPDX-License-Identifier: Apache-2.0

package servertest

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// QUIC is a DNS-over-QUIC server on loopback. Its fields are set before it is used.
type QUIC struct {
	// Intercept, unless nil, may answer a query itself, and returns true then.
	Intercept func(c *quic.Conn, s *quic.Stream, query []byte) bool
	// Config, unless nil, changes the configuration of QUIC.
	Config func(*quic.Config)

	Addr                    netip.AddrPort
	Queries, Conns, Resumed atomic.Int64

	// Closed receives why each connection was closed.
	Closed chan error

	tb        testing.TB
	handler   dnstest.Handler
	conn      *net.UDPConn
	transport *quic.Transport
	listener  *quic.Listener
	wg        sync.WaitGroup
}

// ServeQUIC runs a server until the test ends. change, unless nil, may set the fields.
func ServeQUIC(tb testing.TB, h dnstest.Handler, change func(*QUIC)) *QUIC {
	tb.Helper()
	s := &QUIC{tb: tb, handler: h, Addr: netip.AddrPortFrom(Loopback, 0), Closed: make(chan error, 1000)}
	if change != nil {
		change(s)
	}
	s.start()
	tb.Cleanup(s.Stop)
	return s
}

// Server returns the server as an upstream, by name.
func (s *QUIC) Server() transport.Server {
	return transport.Server{Protocol: transport.DoQ, Addr: s.Addr, Name: Name}
}

// start runs the server, at the address that it had before if it was stopped.
func (s *QUIC) start() {
	s.tb.Helper()
	var err error
	if s.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.Addr)); err != nil {
		s.tb.Fatal(err)
	}
	s.Addr = netip.MustParseAddrPort(s.conn.LocalAddr().String())
	s.transport = &quic.Transport{Conn: s.conn, StatelessResetKey: &quic.StatelessResetKey{1}}
	cfg := &quic.Config{}
	if s.Config != nil {
		s.Config(cfg)
	}
	s.listener, err = s.transport.Listen(&tls.Config{Certificates: []tls.Certificate{Issue(s.tb, dnstest.CertOptions{})}, NextProtos: []string{"doq"}}, cfg)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.wg.Go(func() { s.accept(s.listener) })
}

// accept serves the connections of one listener.
func (s *QUIC) accept(l *quic.Listener) {
	for {
		c, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		s.Conns.Add(1)
		if c.ConnectionState().TLS.DidResume {
			s.Resumed.Add(1)
		}
		s.wg.Go(func() {
			for {
				stream, err := c.AcceptStream(context.Background())
				if err != nil {
					<-c.Context().Done() // it may follow
					s.Closed <- context.Cause(c.Context())
					return
				}
				s.wg.Go(func() { s.serve(c, stream) })
			}
		})
	}
}

// serve answers the query of one stream.
func (s *QUIC) serve(c *quic.Conn, stream *quic.Stream) {
	raw, err := io.ReadAll(stream) // until FIN
	if err != nil {
		return
	}
	s.Queries.Add(1)
	if len(raw) < 2 || int(binary.BigEndian.Uint16(raw)) != len(raw)-2 {
		s.tb.Errorf("a stream with %d bytes that are not one message", len(raw))
		return
	}
	query := raw[2:]
	if s.Intercept != nil && s.Intercept(c, stream, query) {
		return
	}
	a := s.handler.Answer(&dnstest.Request{Query: query, Transport: dnstest.TLS})
	select {
	case <-time.After(a.Delay):
	case <-c.Context().Done():
		return
	}
	if a.Wait != nil {
		select {
		case <-a.Wait:
		case <-c.Context().Done():
			return
		}
	}
	if a.Msg != nil {
		_, _ = stream.Write(dnstest.Frame(a.Msg))
		_ = stream.Close()
	}
}

// Stop closes the server and its connections.
func (s *QUIC) Stop() {
	_ = s.transport.Close() // with its listener and connections
	_ = s.conn.Close()
	s.wg.Wait()
}

// Crash restarts the server without closing its connections: it answers what arrives on them
// with a stateless reset (RFC 9000 §10.3).
func (s *QUIC) Crash() {
	_ = s.conn.Close() // nothing that is sent now arrives
	s.Stop()
	s.start()
}
