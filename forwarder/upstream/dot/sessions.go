// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"

	"sotto/forwarder/upstream/transport"
)

// maxSessions limits the sessions kept for an address. OpenSSL sends two tickets per
// connection, and a pool needs few.
const maxSessions = 4

// sessions are the TLS sessions that can be resumed with one address. Another address of
// the same server may be another machine, which cannot resume them.
type sessions struct {
	mu   sync.Mutex
	list []*tls.ClientSessionState // the newest last
}

// take returns the newest session, or nil. A ticket is used once as long as there is
// another, because a ticket that is reused links two connections (RFC 8446 §C.4). The
// last one is kept: with a server that issues one ticket at a time, every second
// connection would need a full handshake otherwise. The ticket reveals nothing that the
// addresses do not, and a server that accepts no ticket twice falls back to a full
// handshake.
func (s *sessions) take() *tls.ClientSessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.list)
	if n == 0 {
		return nil
	}
	newest := s.list[n-1]
	if n > 1 {
		s.list = s.list[:n-1]
	}
	return newest
}

func (s *sessions) add(state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, state)
	if len(s.list) > maxSessions {
		s.list = slices.Delete(s.list, 0, 1)
	}
}

func (s *sessions) drop(state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(x *tls.ClientSessionState) bool { return x == state })
}

func (s *sessions) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = nil
}

// sessionsOf returns the sessions of one of the server's addresses.
func (p *Pool) sessionsOf(addr netip.AddrPort) *sessions {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sessions == nil {
		p.sessions = make(map[netip.AddrPort]*sessions)
	}
	s := p.sessions[addr]
	if s == nil {
		s = &sessions{}
		p.sessions[addr] = s
	}
	return s
}

// handshake is a TLS connection that is being opened, and its session cache for
// crypto/tls. After the handshake crypto/tls only calls Put, from the goroutine that
// reads.
type handshake struct {
	addr     netip.AddrPort
	sessions *sessions
	offered  *tls.ClientSessionState // to the server

	raw *gather
	nc  *tls.Conn

	certRequested bool // the server requested a certificate

	resumed   bool
	untrusted *transport.TrustError // why the server is not authenticated, although it is accepted
}

// close closes a connection that is not needed.
func (h *handshake) close() { _ = h.nc.Close() }

// Get implements [tls.ClientSessionCache]. It returns the session to offer.
func (h *handshake) Get(string) (*tls.ClientSessionState, bool) {
	h.offered = h.sessions.take()
	return h.offered, h.offered != nil
}

// Put implements [tls.ClientSessionCache]. It adds a session or, if state is nil, removes
// the one that was offered. A session with a server that is not authenticated is not
// kept, so that the next connection checks the server's current certificate.
func (h *handshake) Put(_ string, state *tls.ClientSessionState) {
	switch {
	case state == nil:
		h.sessions.drop(h.offered)
	case h.untrusted == nil:
		h.sessions.add(state)
	}
}
