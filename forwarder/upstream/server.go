// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sotto/forwarder/upstream/transport"
)

// DefaultPort is the port of DNS over TLS (RFC 7858 §3.1).
const DefaultPort = 853

// syntax is the syntax of a server, for errors.
const syntax = "ADDR[:PORT][,ADDR[:PORT]...][#NAME]"

// Server is one server and how it is authenticated.
type Server = transport.Server

// Pin is the SHA-256 of a public key.
type Pin = transport.Pin

// serverKeys returns strings that identify a server: two servers with a key in common are
// the same one at that address.
func serverKeys(s Server) []string {
	pins := slices.Clone(s.Pins)
	slices.SortFunc(pins, func(a, b Pin) int { return strings.Compare(string(a[:]), string(b[:])) })
	var keys []string
	for _, a := range s.Addrs() {
		keys = append(keys, fmt.Sprintf("%s#%s %x", a, s.Name, pins))
	}
	return keys
}

// ParsePin parses "sha256/BASE64". The base64 part is the output of
//
//	openssl x509 -pubkey -noout | openssl pkey -pubin -outform der |
//	openssl dgst -sha256 -binary | base64
func ParsePin(s string) (Pin, error) {
	var p Pin
	text, ok := strings.CutPrefix(s, transport.PinPrefix)
	if !ok {
		return p, fmt.Errorf("read the pin %q: want sha256/BASE64", s)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return p, fmt.Errorf("read the pin %q: %w: want sha256/ and 44 characters of base64", s, err)
	}
	if len(raw) != len(p) {
		return p, fmt.Errorf("read the pin %q: its length is %d bytes: want the %d of a SHA-256", s, len(raw), len(p))
	}
	copy(p[:], raw)
	return p, nil
}

// ParseServer parses the name of a preset ("quad9"), which stands for several servers, or
// one server as
//
//	ADDR[:PORT][,ADDR[:PORT]...][#NAME]
//
// where an IPv6 address with a port is in brackets. Several addresses belong to the same
// server and are raced (see [Server.Also]): "192.0.2.1,2001:db8::1#dns.example",
// "192.0.2.1:8853,[2001:db8::1]:8853#dns.example". The default port is 853. A port is
// required with each address or with none, so that the port of the last one is not taken
// for that of all.
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

// parseOne parses one server.
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

// parseAddrs parses addresses separated by commas.
func parseAddrs(s string) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	ports := 0
	for part := range strings.SplitSeq(s, ",") {
		addr, hasPort, err := parseAddr(part)
		if err != nil {
			return nil, err
		}
		if slices.Contains(addrs, addr) {
			return nil, fmt.Errorf("%s is listed twice: remove one", addr)
		}
		if hasPort {
			ports++
		}
		addrs = append(addrs, addr)
	}
	if ports != 0 && ports != len(addrs) {
		return nil, fmt.Errorf("%q has a port with some addresses only: write it with each, like 192.0.2.1:8853,[2001:db8::1]:8853", s)
	}
	return addrs, nil
}

// parseAddr parses ADDR, ADDR:PORT, [ADDR] or [ADDR]:PORT, and reports whether there was a
// port.
func parseAddr(s string) (addr netip.AddrPort, hasPort bool, err error) {
	if strings.Contains(s, "://") {
		return addr, false, fmt.Errorf("%q is a URL: want %s for DNS over TLS", s, syntax)
	}
	host, port, hasPort := splitPort(s)
	p := uint16(DefaultPort)
	if hasPort {
		if p, err = parsePort(port); err != nil {
			return addr, false, fmt.Errorf("%q is not a port: want a number from 1 to 65535", port)
		}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return addr, false, addressError(host)
	}
	if ip.IsUnspecified() || ip.IsMulticast() {
		return addr, false, fmt.Errorf("%s cannot be a server's address: want a unicast address", ip)
	}
	return netip.AddrPortFrom(ip.Unmap(), p), hasPort, nil
}

// splitPort splits an address from its port, or from other text in its place.
func splitPort(s string) (host, port string, hasPort bool) {
	if inner, rest, ok := strings.Cut(s, "]"); ok && strings.HasPrefix(s, "[") {
		port, colon := strings.CutPrefix(rest, ":")
		if !colon {
			port = "]" + rest // not a number; the error shows it
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

// addressError explains why host is not an IP address.
func addressError(host string) error {
	switch reason, discontinued := discontinuedPresets[strings.ToLower(host)]; {
	case discontinued:
		return errors.New(reason)
	case host == "":
		return fmt.Errorf("the address is missing: want %s, or one of %s", syntax, strings.Join(Presets(), ", "))
	case checkName(host) == nil && !strings.ContainsAny(host, ":"):
		return fmt.Errorf("%q is neither an IP address nor one of %s: resolving a host name needs DNS, which is not available yet; write ADDRESS#%s",
			host, strings.Join(Presets(), ", "), host)
	}
	return fmt.Errorf("%q is not an IP address: want %s, with an IPv6 address and a port as [ADDR]:PORT", host, syntax)
}

// checkName returns an error if a name cannot be in a certificate (RFC 6125).
func checkName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("the name %q is an address: remove #%s, the certificate is checked for the address without it", name, name)
	}
	if name == "" || len(name) > 253 {
		return errors.New("the name after # is empty or too long: write ADDR#NAME, or ADDR alone for a certificate that contains the address")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("the name %q has an empty label or one that is too long: want a name like dns.example.net", name)
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return fmt.Errorf("the name %q contains %q: want a name like dns.example.net", name, c)
			}
		}
	}
	return nil
}
