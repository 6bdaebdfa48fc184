// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
)

// maxSessions is how many sessions are kept for an address. OpenSSL sends two
// tickets a connection, and a pool that reopens its connections needs few.
const maxSessions = 4

// sessions are the TLS sessions that can be resumed with one address. Another
// address of the same server may be another machine, which knows nothing of them.
type sessions struct {
	mu   sync.Mutex
	list []*tls.ClientSessionState // the newest last
}

// take returns the newest session, nil if there is none. A ticket is used once
// as long as there is another: RFC 8446 §C.4 wants no two connections to be known
// by one. The last one stays, since a server that gives one ticket at a time would
// see a full handshake from every second connection: it learns nothing from the
// ticket that the addresses do not say already, and who accepts none twice falls
// back to the full handshake by itself.
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
func (p *pool) sessionsOf(addr netip.AddrPort) *sessions {
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

// handshake is one TLS connection on its way to be used, and crypto/tls's view of
// the sessions that it may resume. After the handshake crypto/tls only puts, from
// whoever reads.
type handshake struct {
	addr     netip.AddrPort
	sessions *sessions
	used     *tls.ClientSessionState // offered to the server

	raw *gather
	nc  *tls.Conn

	resumed   bool
	untrusted *trustError // why the server is not authenticated, and taken nevertheless
}

// close gives up a connection that is not needed.
func (h *handshake) close() { _ = h.nc.Close() }

// Get is crypto/tls's: which session to offer.
func (h *handshake) Get(string) (*tls.ClientSessionState, bool) {
	h.used = h.sessions.take()
	return h.used, h.used != nil
}

// Put is crypto/tls's: a new session or, with nil, that the one offered is no good.
// A session with a server that is not authenticated is not kept: its next connection
// is to see the certificate that it has then.
func (h *handshake) Put(_ string, state *tls.ClientSessionState) {
	switch {
	case state == nil:
		h.sessions.drop(h.used)
	case h.untrusted == nil:
		h.sessions.add(state)
	}
}
