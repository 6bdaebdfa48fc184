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

// Server is one DNS-over-TLS server and how it is authenticated.
type Server struct {
	// Addr is where it listens.
	Addr netip.AddrPort

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
	if s.Name == "" {
		return s.Addr.String()
	}
	return s.Addr.String() + "#" + s.Name
}

// key tells servers apart: those with one key may share connections.
func (s Server) key() string {
	pins := slices.Clone(s.Pins)
	slices.SortFunc(pins, func(a, b Pin) int { return strings.Compare(string(a[:]), string(b[:])) })
	return fmt.Sprintf("%s %x", s, pins)
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

// presets are services by name. Their order is that of failing over: both
// families' first addresses, then the second ones.
var presets = map[string][]string{
	// https://developers.cloudflare.com/1.1.1.1/ip-addresses/ and, for the
	// name, https://developers.cloudflare.com/1.1.1.1/encryption/dns-over-tls/
	"cloudflare": {
		"1.1.1.1#one.one.one.one", "[2606:4700:4700::1111]#one.one.one.one",
		"1.0.0.1#one.one.one.one", "[2606:4700:4700::1001]#one.one.one.one",
	},
	// https://developers.google.com/speed/public-dns/docs/using for the
	// addresses, …/docs/dns-over-tls for the name.
	"google": {
		"8.8.8.8#dns.google", "[2001:4860:4860::8888]#dns.google",
		"8.8.4.4#dns.google", "[2001:4860:4860::8844]#dns.google",
	},
	// https://quad9.net/service/service-addresses-and-features/ (the
	// recommended service: malware blocking, DNSSEC, no client subnet).
	"quad9": {
		"9.9.9.9#dns.quad9.net", "[2620:fe::fe]#dns.quad9.net",
		"149.112.112.112#dns.quad9.net", "[2620:fe::9]#dns.quad9.net",
	},
}

// Presets are the names that [ParseServer] knows.
func Presets() []string {
	names := make([]string, 0, len(presets))
	for name := range presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ParseServer reads a preset ("quad9"), which stands for several servers, or
// ADDR[:PORT][#NAME], where an IPv6 address with a port is in brackets.
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
	addr, err := parseAddr(where)
	if err != nil {
		return Server{}, err
	}
	if !hasName {
		return Server{Addr: addr}, nil
	}
	name = strings.TrimSuffix(name, ".")
	if err := checkName(name); err != nil {
		return Server{}, err
	}
	return Server{Addr: addr, Name: strings.ToLower(name)}, nil
}

// parseAddr reads ADDR, ADDR:PORT, [ADDR] or [ADDR]:PORT.
func parseAddr(s string) (netip.AddrPort, error) {
	if strings.Contains(s, "://") {
		return netip.AddrPort{}, fmt.Errorf("%q is a URL: want ADDR[:PORT][#NAME] for DNS over TLS", s)
	}
	host, port := s, uint16(DefaultPort)
	if inner, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "]"); ok && strings.HasPrefix(s, "[") {
		host = inner
		if rest != "" {
			p, err := parsePort(strings.TrimPrefix(rest, ":"))
			if err != nil || rest[0] != ':' {
				return netip.AddrPort{}, fmt.Errorf("%q is no port: want a number from 1 to 65535", rest)
			}
			port = p
		}
	} else if strings.Count(s, ":") == 1 {
		before, after, _ := strings.Cut(s, ":")
		p, err := parsePort(after)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is no port: want a number from 1 to 65535", after)
		}
		host, port = before, p
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, errNoAddress(host)
	}
	if addr.IsUnspecified() || addr.IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("%s is no server's address: want a unicast one", addr)
	}
	return netip.AddrPortFrom(addr.Unmap(), port), nil
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
	switch {
	case host == "":
		return fmt.Errorf("it has no address: want ADDR[:PORT][#NAME], or one of %s", strings.Join(Presets(), ", "))
	case checkName(host) == nil && !strings.ContainsAny(host, ":"):
		return fmt.Errorf("%q is neither an IP address nor one of %s: a host name would need DNS before there is any; write ADDRESS#%s",
			host, strings.Join(Presets(), ", "), host)
	}
	return fmt.Errorf("%q is no IP address: want ADDR[:PORT][#NAME], with an IPv6 address and a port as [ADDR]:PORT", host)
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
