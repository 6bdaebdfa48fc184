// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/transport"
)

// Verifier authenticates one server, and this client to it. Its exported fields are not changed
// after the first use.
type Verifier struct {
	Server     transport.Server
	Profile    transport.Profile
	Roots      func() *x509.CertPool // nil: the system's
	Configured *x509.CertPool        // of Roots; nil: none
	ClientCert tls.Certificate
	Now        func() time.Time

	// ALPN is the name of the protocol in the IANA registry (RFC 7301).
	ALPN string
	// NeedALPN refuses a server that does not select ALPN.
	NeedALPN bool

	verified atomic.Pointer[verifiedChain] // the latest one
}

// NewVerifier returns the verifier of a transport for that protocol.
func NewVerifier(cfg *transport.Config, alpn string, needALPN bool) *Verifier {
	v := &Verifier{Server: cfg.Server, Profile: cfg.Profile, Configured: cfg.ConfiguredCAs, Now: time.Now, ALPN: alpn, NeedALPN: needALPN}
	if cfg.RootCAs != nil {
		v.Roots = sync.OnceValue(cfg.RootCAs) // always the same pool
	}
	if cfg.ClientCert != nil {
		v.ClientCert = *cfg.ClientCert
	}
	return v
}

// Config returns the TLS configuration for one handshake. The server is verified by admit
// in VerifyConnection, which crypto/tls also calls for resumed sessions, with the
// certificates of the session's first handshake.
func (v *Verifier) Config(h *Handshake) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // RFC 8310 §9
		NextProtos: []string{v.ALPN},
		// crypto/tls sends the key shares of the first hybrid and the first other one.
		CurvePreferences: keyExchanges(h),
		// Without a name crypto/tls sends no SNI.
		ServerName:         v.Server.Name,
		ClientSessionCache: h,
		// The certificate is checked in admit.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			h.Resumed = cs.DidResume
			if err := v.admit(h, cs.PeerCertificates); err != nil {
				return err
			}
			if v.NeedALPN && cs.NegotiatedProtocol != v.ALPN {
				return &transport.ProtocolError{Want: v.ALPN}
			}
			return nil
		},
		// Unlike Certificates, this also sends a certificate that no authority in the
		// server's list has issued: the server may accept it, and else gives the reason.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			h.CertRequested = true
			return &v.ClientCert, nil
		},
		Time: v.Now,
	}
}

// keyExchanges returns the groups for the key exchange of a handshake, the preferred one first. X25519MLKEM768 is the one that
// resists quantum computers (draft-ietf-tls-ecdhe-mlkem).
func keyExchanges(h *Handshake) []tls.CurveID {
	groups := []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	if h.offersHybrid() {
		return groups
	}
	if h.group == 0 {
		return groups[1:]
	}
	others := slices.DeleteFunc(groups[1:], func(g tls.CurveID) bool { return g == h.group })
	return append([]tls.CurveID{h.group}, others...)
}

// Refusal returns err, or a [transport.ClientCertError] if it is an alert by which a server
// that requested a certificate refuses the connection. With TLS 1.3 that arrives after the
// handshake. An alert about ALPN becomes a [transport.ProtocolError].
func (v *Verifier) Refusal(h *Handshake, err error) error {
	var op *net.OpError
	switch {
	case !errors.As(err, &op) || op.Op != "remote error":
		return err
	case op.Err.Error() == noApplicationProtocol.Error(): // crypto/tls does not export its type
		return &transport.ProtocolError{Want: v.ALPN}
	case h.CertRequested:
		return &transport.ClientCertError{Sent: len(v.ClientCert.Certificate) > 0, Err: op.Err}
	}
	return err
}

// noApplicationProtocol is the alert of a server that supports none of the protocols that
// the client offers (RFC 7301 §3.2).
const noApplicationProtocol = tls.AlertError(120)

// admit returns an error if the connection must not be used: the server is not
// authenticated, and the profile does not accept that. If the profile does, it sets
// h.Untrusted. A resumed session always has to be authenticated, because the server may
// have a better certificate now.
func (v *Verifier) admit(h *Handshake, chain []*x509.Certificate) error {
	err := v.verify(h.Addr.Addr(), chain)
	var untrusted *transport.TrustError
	if v.Profile == transport.Opportunistic && !v.demandsTrust() && !h.Resumed && errors.As(err, &untrusted) {
		h.Untrusted = untrusted
		return nil
	}
	return err
}

// demandsTrust reports whether the server has to be authenticated whatever the profile: it has pins
// or hashes, or was designated by another one, in plain DNS that anyone on the path can forge.
func (v *Verifier) demandsTrust() bool {
	return len(v.Server.Pins)+len(v.Server.CertHashes) > 0 || v.Server.CertAddr.IsValid()
}

// verify authenticates the server at that address by its certificate chain.
func (v *Verifier) verify(addr netip.Addr, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &transport.TrustError{Reason: "the server sent no certificate"}
	}
	if v.Server.Name == "" && len(v.Server.Pins) > 0 && len(v.Server.CertHashes) == 0 {
		return v.verifyPinned(addr, chain)
	}
	chains, err := v.verifyTrusted(chain)
	if err != nil {
		return err
	}
	if err := v.verifyName(addr, chain[0]); err != nil {
		return err
	}
	if len(v.Server.Pins) > 0 && !inChain(chains, v.Server.Pins, transport.PinOf) {
		return v.pinMismatch(chain)
	}
	if len(v.Server.CertHashes) > 0 && !inChain(chains, v.Server.CertHashes, transport.CertHashOf) {
		return &transport.TrustError{Reason: "no certificate of its chain has a hash that the stamp contains: get a new stamp"}
	}
	return nil
}

// verifyPinned verifies pins without a name (RFC 7858 §4.2). A pin that matches the leaf
// is sufficient, because the server proved that it has the key. A pin that matches another
// certificate proves nothing by itself, because anyone can send a copy of that
// certificate: it has to have issued the leaf, for this address.
func (v *Verifier) verifyPinned(addr netip.Addr, chain []*x509.Certificate) error {
	leaf := chain[0]
	if slices.Contains(v.Server.Pins, transport.PinOf(leaf)) {
		return v.verifyTime(leaf)
	}
	pinned := x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if slices.Contains(v.Server.Pins, transport.PinOf(c)) {
			pinned.AddCert(c)
			found = true
		}
	}
	if !found {
		return v.pinMismatch(chain)
	}
	if _, err := v.verifyChain(chain, pinned); err != nil {
		return err
	}
	return v.verifyName(addr, leaf)
}

// verifyTrusted builds the chains from the leaf to a trusted root. The configured roots are tried first, because the system has
// some hundred more to read. A pin may be in a chain to any root.
func (v *Verifier) verifyTrusted(chain []*x509.Certificate) ([][]*x509.Certificate, error) {
	if v.Configured != nil && len(v.Server.Pins)+len(v.Server.CertHashes) == 0 {
		if chains, err := v.verifyChain(chain, v.Configured); err == nil {
			return chains, nil
		}
	}
	var roots *x509.CertPool
	if v.Roots != nil {
		roots = v.Roots()
	}
	return v.verifyChain(chain, roots)
}

// verifyChain builds the chains from the leaf to a root.
func (v *Verifier) verifyChain(chain []*x509.Certificate, roots *x509.CertPool) ([][]*x509.Certificate, error) {
	now := v.Now()
	if known := v.verified.Load(); known.holds(chain, roots, now) {
		return known.chains, nil
	}
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(opts)
	if err == nil {
		v.verified.Store(newVerifiedChain(chain, roots, chains, now))
		return chains, nil
	}
	if terr := v.verifyTime(chain[0]); terr != nil {
		return nil, terr
	}
	var unknown x509.UnknownAuthorityError
	var noRoots x509.SystemRootsError
	reason := "its certificate is not valid: " + err.Error()
	switch {
	case errors.As(err, &noRoots):
		reason = "this machine has no CA certificates: install ca-certificates, or specify a CA with --ca-file"
	case errors.As(err, &unknown):
		reason = fmt.Sprintf("its certificate is from an untrusted CA (%s): add the CA with --ca-file if it is yours",
			issuer(chain[0]))
	}
	return nil, &transport.TrustError{Reason: reason, Err: err}
}

// issuer returns the name of the CA that issued c, as given in c.
func issuer(c *x509.Certificate) string {
	if name := c.Issuer.CommonName; name != "" {
		return name
	}
	return c.Issuer.String()
}

// verifyTime checks the validity period of c.
func (v *Verifier) verifyTime(c *x509.Certificate) error {
	const layout = "2006-01-02 15:04 MST"
	now := v.Now()
	switch {
	case now.After(c.NotAfter):
		return &transport.TrustError{
			Reason: "its certificate expired on " + c.NotAfter.UTC().Format(layout),
			Err:    x509.CertificateInvalidError{Cert: c, Reason: x509.Expired},
		}
	case now.Before(c.NotBefore):
		return &transport.TrustError{
			Reason: "its certificate is not valid before " + c.NotBefore.UTC().Format(layout) + ": is this machine's clock right?",
			Err:    x509.CertificateInvalidError{Cert: c, Reason: x509.Expired},
		}
	}
	return nil
}

// verifyName checks that the leaf is valid for the server's name or, without one, for the
// address that was dialled; or instead for the address that the configuration names.
func (v *Verifier) verifyName(addr netip.Addr, leaf *x509.Certificate) error {
	want := v.Server.Name
	switch {
	case v.Server.CertAddr.IsValid():
		want = v.Server.CertAddr.WithZone("").String()
	case want == "":
		want = addr.WithZone("").String()
	}
	err := leaf.VerifyHostname(want)
	if err == nil {
		return nil
	}
	names := subjects(leaf)
	if v.Server.Name == "" && !v.Server.CertAddr.IsValid() {
		return &transport.TrustError{
			Reason: fmt.Sprintf("its certificate is for %s, not for the address: write %s#NAME", names, v.Server),
			Err:    err,
		}
	}
	return &transport.TrustError{Reason: fmt.Sprintf("its certificate is for %s, not for %s", names, want), Err: err}
}

// subjects lists the first few names in a certificate.
func subjects(c *x509.Certificate) string {
	const few = 3
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no name"
	case len(names) > few:
		return strings.Join(names[:few], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

// inChain reports whether a hash of any certificate of a verified chain is one of want,
// including the root (RFC 7858 §4.2): pinning the CA lets the server's key change.
func inChain(chains [][]*x509.Certificate, want []transport.Pin, hash func(*x509.Certificate) transport.Pin) bool {
	for _, chain := range chains {
		for _, c := range chain {
			if slices.Contains(want, hash(c)) {
				return true
			}
		}
	}
	return false
}

func (v *Verifier) pinMismatch(chain []*x509.Certificate) error {
	return &transport.TrustError{Reason: fmt.Sprintf("its key does not match the pin: the key has %s", transport.PinOf(chain[0]))}
}
