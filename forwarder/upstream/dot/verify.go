// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sotto/forwarder/upstream/transport"
)

// alpn is the protocol name of DNS over TLS in the IANA registry. A server without ALPN
// is accepted as well.
const alpn = "dot"

// verifier authenticates one server, and this client to it.
type verifier struct {
	server     transport.Server
	profile    transport.Profile
	roots      *x509.CertPool // nil: the system's
	clientCert tls.Certificate
	now        func() time.Time
}

// config returns the TLS configuration for one handshake. The server is verified by admit
// in VerifyConnection, which crypto/tls also calls for resumed sessions, with the
// certificates of the session's first handshake.
func (v *verifier) config(h *handshake) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // RFC 8310 §9
		NextProtos: []string{alpn},
		// Without a name crypto/tls sends no SNI.
		ServerName:         v.server.Name,
		ClientSessionCache: h,
		// The certificate is checked in admit.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			h.resumed = cs.DidResume
			return v.admit(h, cs.PeerCertificates)
		},
		// Unlike Certificates, this also sends a certificate that no authority in the
		// server's list has issued: the server may accept it, and else gives the reason.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			h.certRequested = true
			return &v.clientCert, nil
		},
		Time: v.now,
	}
}

// refusal returns err, or a [transport.ClientCertError] if it is an alert by which a server
// that requested a certificate refuses the connection. With TLS 1.3 that arrives after the
// handshake.
func (v *verifier) refusal(requested bool, err error) error {
	var op *net.OpError
	if !requested || !errors.As(err, &op) || op.Op != "remote error" {
		return err
	}
	return &transport.ClientCertError{Sent: len(v.clientCert.Certificate) > 0, Err: op.Err}
}

// admit returns an error if the connection must not be used: the server is not
// authenticated, and the profile does not accept that. If the profile does, it sets
// h.untrusted. A resumed session always has to be authenticated, because the server may
// have a better certificate now.
func (v *verifier) admit(h *handshake, chain []*x509.Certificate) error {
	err := v.verify(h.addr.Addr(), chain)
	var untrusted *transport.TrustError
	if v.profile == transport.Opportunistic && len(v.server.Pins) == 0 && !h.resumed && errors.As(err, &untrusted) {
		h.untrusted = untrusted
		return nil
	}
	return err
}

// verify authenticates the server at that address by its certificate chain.
func (v *verifier) verify(addr netip.Addr, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &transport.TrustError{Reason: "the server sent no certificate"}
	}
	if v.server.Name == "" && len(v.server.Pins) > 0 {
		return v.verifyPinned(addr, chain)
	}
	chains, err := v.verifyChain(chain, v.roots)
	if err != nil {
		return err
	}
	if err := v.verifyName(addr, chain[0]); err != nil {
		return err
	}
	if len(v.server.Pins) > 0 && !v.hasPin(chains) {
		return v.pinMismatch(chain)
	}
	return nil
}

// verifyPinned verifies pins without a name (RFC 7858 §4.2). A pin that matches the leaf
// is sufficient, because the server proved that it has the key. A pin that matches another
// certificate proves nothing by itself, because anyone can send a copy of that
// certificate: it has to have issued the leaf, for this address.
func (v *verifier) verifyPinned(addr netip.Addr, chain []*x509.Certificate) error {
	leaf := chain[0]
	if slices.Contains(v.server.Pins, transport.PinOf(leaf)) {
		return v.verifyTime(leaf)
	}
	pinned := x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if slices.Contains(v.server.Pins, transport.PinOf(c)) {
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

// verifyChain builds the chains from the leaf to a root.
func (v *verifier) verifyChain(chain []*x509.Certificate, roots *x509.CertPool) ([][]*x509.Certificate, error) {
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   v.now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(opts)
	if err == nil {
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
func (v *verifier) verifyTime(c *x509.Certificate) error {
	const layout = "2006-01-02 15:04 MST"
	now := v.now()
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
// address that was dialled.
func (v *verifier) verifyName(addr netip.Addr, leaf *x509.Certificate) error {
	want := v.server.Name
	if want == "" {
		want = addr.WithZone("").String()
	}
	err := leaf.VerifyHostname(want)
	if err == nil {
		return nil
	}
	names := subjects(leaf)
	if v.server.Name == "" {
		return &transport.TrustError{
			Reason: fmt.Sprintf("its certificate is for %s, not for the address: write %s#NAME", names, v.server),
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

// hasPin reports whether a pin matches any certificate of a verified chain, including the
// root (RFC 7858 §4.2): pinning the CA lets the server's key change.
func (v *verifier) hasPin(chains [][]*x509.Certificate) bool {
	for _, chain := range chains {
		for _, c := range chain {
			if slices.Contains(v.server.Pins, transport.PinOf(c)) {
				return true
			}
		}
	}
	return false
}

func (v *verifier) pinMismatch(chain []*x509.Certificate) error {
	return &transport.TrustError{Reason: fmt.Sprintf("its key does not match the pin: the key has %s", transport.PinOf(chain[0]))}
}
