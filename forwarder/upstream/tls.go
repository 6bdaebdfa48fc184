// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// alpn is DNS over TLS's protocol name (the IANA registry, after RFC 7858). A
// server that knows no ALPN is as good.
const alpn = "dot"

// trustError says why a server was not trusted.
type trustError struct {
	reason string
	err    error
}

func (e *trustError) Error() string { return e.reason }
func (e *trustError) Unwrap() error { return e.err }

// verifier authenticates one server.
type verifier struct {
	server  Server
	profile Profile
	roots   *x509.CertPool // nil: the system's
	now     func() time.Time
}

// config returns the TLS configuration for one handshake. crypto/tls leaves
// the verification to admit, in VerifyConnection: that is called for resumed
// sessions as well, and sees the certificates of the session's first handshake.
func (v *verifier) config(h *handshake) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // RFC 8310 §9
		NextProtos: []string{alpn},
		// Empty without a name: crypto/tls then sends no SNI.
		ServerName:         v.server.Name,
		ClientSessionCache: h,
		// All of the certificate's checks are in admit.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			h.resumed = cs.DidResume
			return v.admit(h, cs.PeerCertificates)
		},
		Time: v.now,
	}
}

// admit says whether the connection may be used: the server is authenticated or,
// where the profile allows it, it is not, which h is told. A resumed session is
// never used without: the server may have a better certificate by now.
func (v *verifier) admit(h *handshake, chain []*x509.Certificate) error {
	err := v.verify(h.addr.Addr(), chain)
	var untrusted *trustError
	if v.profile == Opportunistic && len(v.server.Pins) == 0 && !h.resumed && errors.As(err, &untrusted) {
		h.untrusted = untrusted
		return nil
	}
	return err
}

// verify authenticates the server at that address by the chain that it showed.
func (v *verifier) verify(addr netip.Addr, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &trustError{reason: "the server shows no certificate"}
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

// verifyPinned is for pins without a name (RFC 7858 §4.2). A pin that matches
// the leaf is enough: the server proved that it has the key. One that matches
// another certificate is worth nothing unless that one issued the leaf, and for
// this address: anybody can show a copy of it.
func (v *verifier) verifyPinned(addr netip.Addr, chain []*x509.Certificate) error {
	leaf := chain[0]
	if slices.Contains(v.server.Pins, PinOf(leaf)) {
		return v.verifyTime(leaf)
	}
	pinned := x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if slices.Contains(v.server.Pins, PinOf(c)) {
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
		reason = "this machine has no CA certificates: install ca-certificates, or name a CA with --ca-file"
	case errors.As(err, &unknown):
		reason = fmt.Sprintf("its certificate is from a CA that is not trusted here (%s): add the CA with --ca-file, if it is yours",
			issuer(chain[0]))
	}
	return nil, &trustError{reason: reason, err: err}
}

// issuer names who signed c, as far as c says so.
func issuer(c *x509.Certificate) string {
	if name := c.Issuer.CommonName; name != "" {
		return name
	}
	return c.Issuer.String()
}

// verifyTime checks that c is valid now.
func (v *verifier) verifyTime(c *x509.Certificate) error {
	const layout = "2006-01-02 15:04 MST"
	now := v.now()
	switch {
	case now.After(c.NotAfter):
		return &trustError{
			reason: "its certificate expired on " + c.NotAfter.UTC().Format(layout),
			err:    x509.CertificateInvalidError{Cert: c, Reason: x509.Expired},
		}
	case now.Before(c.NotBefore):
		return &trustError{
			reason: "its certificate is not valid before " + c.NotBefore.UTC().Format(layout) + ": is this machine's clock right?",
			err:    x509.CertificateInvalidError{Cert: c, Reason: x509.Expired},
		}
	}
	return nil
}

// verifyName checks that the leaf is for the server's name or, where it has
// none, for the address that was dialled.
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
		return &trustError{
			reason: fmt.Sprintf("its certificate is for %s, not for the address: name it as %s#NAME", names, v.server),
			err:    err,
		}
	}
	return &trustError{reason: fmt.Sprintf("its certificate is for %s, not for %s", names, want), err: err}
}

// subjects lists the first few names that a certificate is for.
func subjects(c *x509.Certificate) string {
	const few = 3
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no name at all"
	case len(names) > few:
		return strings.Join(names[:few], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

// hasPin reports whether a pin is in a verified chain, the root included (RFC
// 7858 §4.2 takes any certificate of the validated chain): an operator may pin
// the CA so that the server's key can change.
func (v *verifier) hasPin(chains [][]*x509.Certificate) bool {
	for _, chain := range chains {
		for _, c := range chain {
			if slices.Contains(v.server.Pins, PinOf(c)) {
				return true
			}
		}
	}
	return false
}

func (v *verifier) pinMismatch(chain []*x509.Certificate) error {
	return &trustError{reason: fmt.Sprintf("its key is not the one that was pinned: it has %s", PinOf(chain[0]))}
}
