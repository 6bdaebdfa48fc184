// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DefaultPort is that of DNS over TLS (RFC 7858 §3.1).
const DefaultPort = 853

// syntax is what a server looks like, for errors.
const syntax = "ADDR[:PORT][,ADDR[:PORT]...][#NAME]"

// Server is one DNS-over-TLS server and how it is authenticated.
type Server struct {
	// Addr is where it listens.
	Addr netip.AddrPort

	// Also are further addresses of this same server, as a rule one of the other
	// family. They are raced (RFC 8305): the one that worked last is tried first, at
	// the start an IPv6 one, and the next 250 ms later, or as soon as one fails. The
	// first on which TLS is established and the server authenticated is used. Each has
	// to pass the same authentication.
	Also []netip.AddrPort

	// Name is its authentication domain name (RFC 8310 §2), sent as SNI and
	// looked for in its certificate. Without one the certificate has to be for
	// the address, unless Pins say otherwise.
	Name string

	// Pins, if any, are keys of which one has to be in the server's chain.
	// With a Name they are asked for in addition to a trusted chain. Without
	// one they are the authentication (RFC 7858 §4.2): the pinned key is the
	// server's own, or that of a CA which issued it a certificate for its
	// address; no other CA has to be known.
	Pins []Pin
}

// String is the server in the form that [ParseServer] reads.
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

// addrs are all of its addresses.
func (s Server) addrs() []netip.AddrPort {
	return append([]netip.AddrPort{s.Addr}, s.Also...)
}

// keys tell servers apart: those that have one in common are, there, the same.
func (s Server) keys() []string {
	pins := slices.Clone(s.Pins)
	slices.SortFunc(pins, func(a, b Pin) int { return strings.Compare(string(a[:]), string(b[:])) })
	var keys []string
	for _, a := range s.addrs() {
		keys = append(keys, fmt.Sprintf("%s#%s %x", a, s.Name, pins))
	}
	return keys
}

// Pin is the SHA-256 of a SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

// PinOf is the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// String is the pin in the form that [ParsePin] reads.
func (p Pin) String() string { return pinPrefix + base64.StdEncoding.EncodeToString(p[:]) }

const pinPrefix = "sha256/"

// ParsePin reads "sha256/BASE64", which is what
//
//	openssl x509 -pubkey -noout | openssl pkey -pubin -outform der |
//	openssl dgst -sha256 -binary | base64
//
// prints, with "sha256/" in front.
func ParsePin(s string) (Pin, error) {
	var p Pin
	text, ok := strings.CutPrefix(s, pinPrefix)
	if !ok {
		return p, fmt.Errorf("read the pin %q: want sha256/BASE64", s)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return p, fmt.Errorf("read the pin %q: %w: want sha256/ and 44 characters of base64", s, err)
	}
	if len(raw) != len(p) {
		return p, fmt.Errorf("read the pin %q: it has %d bytes: want the %d of a SHA-256", s, len(raw), len(p))
	}
	copy(p[:], raw)
	return p, nil
}

// ParseServer reads a preset ("quad9"), which stands for several servers, or one
// server as
//
//	ADDR[:PORT][,ADDR[:PORT]...][#NAME]
//
// where an IPv6 address with a port is in brackets. Several addresses are those of
// one and the same server, and raced (see [Server.Also]): "192.0.2.1,2001:db8::1#dns.example",
// "192.0.2.1:8853,[2001:db8::1]:8853#dns.example". The port is 853 where none is
// written; it is written with each address or with none, so that nobody takes the
// last one's for everybody's.
func ParseServer(s string) ([]Server, error) {
	specs, ok := presets[strings.ToLower(s)]
	if !ok {
		specs = []string{s}
	}
	servers := make([]Server, 0, len(specs))
	for _, spec := range specs {
		srv, err := parseOne(spec)
		if err != nil {
			return nil, fmt.Errorf("read the upstream %q: %w", s, err)
		}
		servers = append(servers, srv)
	}
	return servers, nil
}

func parseOne(spec string) (Server, error) {
	where, name, hasName := strings.Cut(spec, "#")
	addrs, err := parseAddrs(where)
	if err != nil {
		return Server{}, err
	}
	srv := Server{Addr: addrs[0], Also: addrs[1:]}
	if !hasName {
		return srv, nil
	}
	srv.Name = strings.ToLower(strings.TrimSuffix(name, "."))
	return srv, checkName(srv.Name)
}

// parseAddrs reads addresses between commas.
func parseAddrs(s string) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	ports := 0
	for part := range strings.SplitSeq(s, ",") {
		addr, hasPort, err := parseAddr(part)
		if err != nil {
			return nil, err
		}
		if slices.Contains(addrs, addr) {
			return nil, fmt.Errorf("%s is in it twice: leave one out", addr)
		}
		if hasPort {
			ports++
		}
		addrs = append(addrs, addr)
	}
	if ports != 0 && ports != len(addrs) {
		return nil, fmt.Errorf("%q has a port with some addresses and with others none: write it with each, like 192.0.2.1:8853,[2001:db8::1]:8853", s)
	}
	return addrs, nil
}

// parseAddr reads ADDR, ADDR:PORT, [ADDR] or [ADDR]:PORT, and tells whether there
// was a port.
func parseAddr(s string) (addr netip.AddrPort, hasPort bool, err error) {
	if strings.Contains(s, "://") {
		return addr, false, fmt.Errorf("%q is a URL: want %s for DNS over TLS", s, syntax)
	}
	host, port, hasPort := splitPort(s)
	p := uint16(DefaultPort)
	if hasPort {
		if p, err = parsePort(port); err != nil {
			return addr, false, fmt.Errorf("%q is no port: want a number from 1 to 65535", port)
		}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return addr, false, errNoAddress(host)
	}
	if ip.IsUnspecified() || ip.IsMulticast() {
		return addr, false, fmt.Errorf("%s is no server's address: want a unicast one", ip)
	}
	return netip.AddrPortFrom(ip.Unmap(), p), hasPort, nil
}

// splitPort takes the port, or what stands in its place, off an address.
func splitPort(s string) (host, port string, hasPort bool) {
	if inner, rest, ok := strings.Cut(s, "]"); ok && strings.HasPrefix(s, "[") {
		port, colon := strings.CutPrefix(rest, ":")
		if !colon {
			port = "]" + rest // which is no number, and told as it is
		}
		return inner[1:], port, rest != ""
	}
	if strings.Count(s, ":") == 1 {
		return strings.Cut(s, ":")
	}
	return s, "", false
}

func parsePort(s string) (uint16, error) {
	p, err := strconv.ParseUint(s, 10, 16)
	if err == nil && p == 0 {
		err = strconv.ErrRange
	}
	return uint16(p), err
}

// errNoAddress says what is wrong with something that is not an IP address.
func errNoAddress(host string) error {
	switch gone, isGone := gonePresets[strings.ToLower(host)]; {
	case isGone:
		return errors.New(gone)
	case host == "":
		return fmt.Errorf("it has no address: want %s, or one of %s", syntax, strings.Join(Presets(), ", "))
	case checkName(host) == nil && !strings.ContainsAny(host, ":"):
		return fmt.Errorf("%q is neither an IP address nor one of %s: a host name would need DNS before there is any; write ADDRESS#%s",
			host, strings.Join(Presets(), ", "), host)
	}
	return fmt.Errorf("%q is no IP address: want %s, with an IPv6 address and a port as [ADDR]:PORT", host, syntax)
}

// checkName says what keeps a name from being in a certificate (RFC 6125).
func checkName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("the name %q is an address: leave #%s out, a certificate for the address is looked for without it", name, name)
	}
	if name == "" || len(name) > 253 {
		return errors.New("the name after # is empty or too long: write ADDR#NAME, or ADDR alone for a certificate with the address in it")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("the name %q has an empty or an overlong label: want one like dns.example.net", name)
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return fmt.Errorf("the name %q has a %q in it: want one like dns.example.net", name, c)
			}
		}
	}
	return nil
}
