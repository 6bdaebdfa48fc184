// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/netip"
)

// Server is one encrypted DNS server and how it is authenticated.
type Server struct {
	// Addr is the address and port it listens on.
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

	// Pins, if any, are public keys of which one has to be in the server's chain. With a
	// Name they are required in addition to a trusted chain. Without a Name they replace
	// it (RFC 7858 §4.2): the pinned key is the server's own, or that of a CA that issued
	// the server a certificate for its address. No other CA has to be trusted.
	Pins []Pin
}

// String returns the server as ADDR:PORT[,ADDR:PORT...][#NAME].
func (s Server) String() string {
	text := s.Addr.String()
	for _, a := range s.Also {
		text += "," + a.String()
	}
	if s.Name != "" {
		text += "#" + s.Name
	}
	return text
}

// Addrs returns all addresses of the server.
func (s Server) Addrs() []netip.AddrPort {
	return append([]netip.AddrPort{s.Addr}, s.Also...)
}

// Pin is the SHA-256 of a SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

// PinPrefix precedes the base64 text of a [Pin].
const PinPrefix = "sha256/"

// PinOf returns the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

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
	// A server with [Server.Pins] is always treated as Strict: a pin is an explicit
	// demand.
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
