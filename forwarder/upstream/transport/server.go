// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
)

// Server is one encrypted DNS server and how it is authenticated.
type Server struct {
	// Protocol carries the queries.
	Protocol Protocol

	// Addr is the address and port it listens on. The address is invalid if Name has to be
	// resolved. The port is 0 with the protocol Auto.
	Addr netip.AddrPort

	// Also lists further addresses of the same server, usually of the other address
	// family. They are raced (RFC 8305): the address that worked last is tried first,
	// initially an IPv6 one, and the next one 250 ms later or as soon as one fails. The
	// first address on which the handshake completes and the server is authenticated is
	// used. Each has to pass the same authentication.
	Also []netip.AddrPort

	// Name is the authentication domain name (RFC 8310 §2). It is sent as SNI and has to
	// be in the certificate. If empty, the certificate has to be valid for the address,
	// unless Pins say otherwise.
	Name string

	// Path is the path of a DNS-over-HTTPS server, such as "/dns-query". Queries are sent
	// with POST, and with GET if it ends with [GetTemplate] (RFC 8484 §4.1). It is empty for
	// other protocols.
	Path string

	// Host is the authority of a DNS-over-HTTPS server if it differs from Name, with the
	// port if that differs from 443; empty: Name and the port or, without a name, Addr.
	Host string

	// CertAddr, if valid, is the address for which the certificate has to be valid, whatever Name and
	// the address that was dialled: that of the nameserver that designated this server (RFC 9462
	// §4.2). Name is then only sent as SNI.
	CertAddr netip.Addr

	// Pins, if any, are public keys of which one has to be in the server's chain. With a
	// Name they are required in addition to a trusted chain. Without a Name they replace
	// it (RFC 7858 §4.2): the pinned key is the server's own, or that of a CA that issued
	// the server a certificate for its address. No other CA has to be trusted.
	Pins []Pin

	// CertHashes, if any, are the SHA-256 of certificates (their TBSCertificate, RFC 5280
	// §4.1), of which one has to be in the chain, as in DNS stamps. They are required in
	// addition to a trusted chain.
	CertHashes []Pin
}

// String returns the server in a form that sotto/forwarder/upstream/address parses:
// ADDR:PORT[,ADDR:PORT...][#NAME] for DNS over TLS with an address, and a URL otherwise. Two
// servers of a group have different strings. The addresses that a name is resolved to are
// not part of it.
func (s Server) String() string {
	if s.Protocol == DoT && s.HasAddr() {
		text := s.Addr.String()
		for _, a := range s.Also {
			text += "," + a.String()
		}
		if s.Name != "" {
			text += "#" + s.Name
		}
		return text
	}
	port := ""
	if p := s.Addr.Port(); p != 0 && p != s.Protocol.Port() {
		port = fmt.Sprintf(":%d", p)
	}
	var addrs []string
	for _, a := range s.Addrs() {
		text := a.Addr().String()
		if s.Name == "" && a.Addr().Is6() {
			text = "[" + text + "]"
		}
		if s.Name == "" {
			text += port
		}
		addrs = append(addrs, text)
	}
	list := strings.Join(addrs, ",")
	switch {
	case s.Name == "":
		return s.Protocol.Scheme() + "://" + list + s.Path
	case len(addrs) > 0:
		list = "#" + list
	}
	return s.Protocol.Scheme() + "://" + s.Name + port + s.Path + list
}

// HasAddr reports whether the server is known by address, and not by its name alone.
func (s Server) HasAddr() bool { return s.Addr.Addr().IsValid() }

// Addrs returns all addresses of the server; none if its name has to be resolved.
func (s Server) Addrs() []netip.AddrPort {
	if !s.HasAddr() {
		return nil
	}
	return append([]netip.AddrPort{s.Addr}, s.Also...)
}

// Protocol is an encrypted protocol that carries DNS messages.
type Protocol uint8

const (
	DoT  Protocol = iota // DNS over TLS (RFC 7858)
	DoH                  // DNS over HTTPS (RFC 8484), HTTP/2
	DoH3                 // DNS over HTTPS, HTTP/3
	DoQ                  // DNS over QUIC (RFC 9250)
	Auto                 // the best of these that works
)

var protocols = [...]struct {
	name, scheme string
	port         uint16
}{
	DoT:  {"DoT", "tls", 853},   // RFC 7858 §3.1
	DoH:  {"DoH", "https", 443}, // RFC 8484 §5.2
	DoH3: {"DoH3", "h3", 443},
	DoQ:  {"DoQ", "quic", 853}, // RFC 9250 §4.1.1
	Auto: {"auto", "auto", 0},
}

// String returns the usual abbreviation of the protocol.
func (p Protocol) String() string {
	if int(p) < len(protocols) {
		return protocols[p].name
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// Scheme returns the scheme of the protocol's URLs.
func (p Protocol) Scheme() string { return protocols[p].scheme }

// Port returns the default port of the protocol; 0 if it has none.
func (p Protocol) Port() uint16 { return protocols[p].port }

// Network returns the name of the protocol below it: TCP or UDP.
func (p Protocol) Network() string {
	if p == DoH3 || p == DoQ {
		return "UDP"
	}
	return "TCP"
}

// HasPath reports whether servers have a [Server.Path].
func (p Protocol) HasPath() bool { return p == DoH || p == DoH3 || p == Auto }

// GetTemplate ends a [Server.Path] of a server that gets its queries with GET (RFC 8484 §4.1).
const GetTemplate = "{?dns}"

// Pin is the SHA-256 of a SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

// PinPrefix precedes the base64 text of a [Pin].
const PinPrefix = "sha256/"

// PinOf returns the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// CertHashOf returns the SHA-256 of a certificate without its signature, as DNS stamps have
// it.
func CertHashOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawTBSCertificate) }

// String returns the pin as sha256/BASE64.
func (p Pin) String() string { return PinPrefix + base64.StdEncoding.EncodeToString(p[:]) }

// Profile is a usage profile of RFC 8310 §5. Queries are always encrypted, whatever the
// profile: the fallback to plain DNS that the RFC allows an opportunistic client is not
// implemented.
type Profile uint8

const (
	// Strict sends no query to a server that is not authenticated.
	Strict Profile = iota

	// Opportunistic also uses a server that cannot be authenticated, logs a warning once
	// for each reason, and sets [Stats.Unauthenticated]. It protects queries from passive
	// observers only: an attacker who can change traffic can pose as the server, read
	// every query and forge every reply, and only the warning shows it.
	//
	// Each new connection tries to authenticate the server again, with a full handshake.
	// A server with [Server.Pins], [Server.CertHashes] or [Server.CertAddr] is always treated
	// as Strict: the first two are explicit demands, and the third has to be verified because
	// the reply that designates a server can be forged (RFC 9462 §4.2).
	Opportunistic
)

var profileNames = [...]string{Strict: "strict", Opportunistic: "opportunistic"}

// String returns the profile's name.
func (p Profile) String() string {
	if int(p) < len(profileNames) {
		return profileNames[p]
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}
