// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"time"
)

// What is known about a server from its latest handshakes makes the next one shorter.

// knownTime is how long that is used.
const knownTime = time.Hour

// verifiedChain is a certificate chain that was verified. The result of a verification depends on the chain, the roots and the
// time only, and a handshake that resumes a session does little else than check its signatures and exchange keys.
type verifiedChain struct {
	sent        []*x509.Certificate
	roots       *x509.CertPool
	chains      [][]*x509.Certificate // to a root
	from, until time.Time
}

// newVerifiedChain returns the result of a verification at that time. It holds for knownTime, and not longer than any of the
// certificates.
func newVerifiedChain(sent []*x509.Certificate, roots *x509.CertPool, chains [][]*x509.Certificate, now time.Time) *verifiedChain {
	now = now.Round(0) // certificates have a wall clock
	v := &verifiedChain{sent: sent, roots: roots, chains: chains, from: now, until: now.Add(knownTime)}
	for _, chain := range chains {
		for _, c := range chain {
			if c.NotAfter.Before(v.until) {
				v.until = c.NotAfter
			}
		}
	}
	return v
}

// holds reports whether a verification of sent at that time has the same result.
func (v *verifiedChain) holds(sent []*x509.Certificate, roots *x509.CertPool, now time.Time) bool {
	now = now.Round(0)
	return v != nil && v.roots == roots && !now.Before(v.from) && now.Before(v.until) &&
		slices.EqualFunc(v.sent, sent, (*x509.Certificate).Equal)
}

// knownGroup is the group of the key exchange that a server chose although it was offered X25519MLKEM768.
type knownGroup struct {
	group tls.CurveID // 0: none
	until time.Time
}

// setGroup records the group of a handshake that offered all groups, with an authenticated server.
func (s *Sessions) setGroup(group tls.CurveID) {
	known := knownGroup{group, time.Now().Add(knownTime)}
	if group == tls.X25519MLKEM768 {
		known = knownGroup{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = known
}

// group returns the group that the server is known to choose, or 0. Then the next handshake leaves out X25519MLKEM768, whose key
// share would be made and sent for nothing, and begins with a share of that group, which saves a round trip if it is not X25519.
func (s *Sessions) group() tls.CurveID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().After(s.known.until) {
		return 0
	}
	return s.known.group
}
