// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"sotto/forwarder/upstream/transport"
)

// maxSessions limits the sessions kept for an address. OpenSSL sends two tickets per
// connection, and a pool needs few.
const maxSessions = 4

// Sessions are the TLS sessions that can be resumed with one address, and the key exchange that it
// chooses. Another address of the same server may be another machine, which cannot resume them.
type Sessions struct {
	mu   sync.Mutex
	list []*tls.ClientSessionState // the newest last

	known knownGroup
}

// take returns the newest session, or nil. A ticket is used once as long as there is
// another, because a ticket that is reused links two connections (RFC 8446 §C.4). The
// last one is kept: with a server that issues one ticket at a time, every second
// connection would need a full handshake otherwise. The ticket reveals nothing that the
// addresses do not, and a server that accepts no ticket twice falls back to a full
// handshake.
func (s *Sessions) take() *tls.ClientSessionState {
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

func (s *Sessions) add(state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, state)
	if len(s.list) > maxSessions {
		s.list = slices.Delete(s.list, 0, 1)
	}
}

func (s *Sessions) drop(state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(x *tls.ClientSessionState) bool { return x == state })
}

// Clear forgets all sessions.
func (s *Sessions) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = nil
}

// Len returns the number of sessions.
func (s *Sessions) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list)
}

// Handshake is a connection that is being opened, and its session cache for crypto/tls.
// After the handshake crypto/tls only calls Put, from the goroutine that reads.
type Handshake struct {
	// Addr is the address of the server.
	Addr netip.AddrPort

	// CertRequested reports whether the server requested a certificate.
	CertRequested bool
	// Classic leaves out the key exchange X25519MLKEM768.
	Classic bool
	// Resumed reports whether a session was resumed.
	Resumed bool
	// Untrusted is why the server is not authenticated, although it is accepted; nil if
	// it is.
	Untrusted *transport.TrustError

	group    tls.CurveID // that the server is known to choose, or 0
	sessions *Sessions
	offered  *tls.ClientSessionState     // to the server
	ignored  atomic.Pointer[func() bool] // see Started; the last value after Stopped
}

// Started records that the first message of the handshake is being sent. ignored reports
// whether the server, which can be reached, has sent nothing since. It is called
// concurrently, and only while the attempt is in progress.
func (h *Handshake) Started(ignored func() bool) { h.ignored.Store(&ignored) }

// Stopped records the result of the function that Started received, before the connection is
// closed.
func (h *Handshake) Stopped() {
	ignored := h.isIgnored()
	h.Started(func() bool { return ignored })
}

// isIgnored reports whether the server has sent nothing since the handshake started.
func (h *Handshake) isIgnored() bool {
	ignored := h.ignored.Load()
	return ignored != nil && (*ignored)()
}

// Get implements [tls.ClientSessionCache]. It returns the session to offer.
func (h *Handshake) Get(string) (*tls.ClientSessionState, bool) {
	h.offered = h.sessions.take()
	return h.offered, h.offered != nil
}

// Put implements [tls.ClientSessionCache]. It adds a session or, if state is nil, removes
// the one that was offered. A session with a server that is not authenticated is not
// kept, so that the next connection checks the server's current certificate.
func (h *Handshake) Put(_ string, state *tls.ClientSessionState) {
	switch {
	case state == nil:
		h.sessions.drop(h.offered)
	case h.Untrusted == nil:
		h.sessions.add(state)
	}
}
