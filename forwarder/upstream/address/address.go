// SPDX-License-Identifier: Apache-2.0

package address

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sotto/forwarder/upstream/transport"
)

// syntax is the syntax of a server without a scheme, for errors.
const syntax = "ADDR[:PORT][,ADDR[:PORT]...][#NAME]"

// Parse parses one of the forms in the package documentation. A preset stands for several
// servers, every other form for one. An IPv6 address with a port is in brackets. Several
// addresses belong to the same server and are raced (see [transport.Server.Also]). A port is
// required with each address or with none, so that the port of the last one is not taken
// for that of all.
//
// A server without an address has an invalid [transport.Server.Addr] with a valid port.
func Parse(s string) ([]transport.Server, error) {
	servers, err := parse(s)
	if err != nil {
		return nil, fmt.Errorf("read the upstream %q: %w", s, err)
	}
	return servers, nil
}

func parse(s string) ([]transport.Server, error) {
	if p, ok := presets[strings.ToLower(s)]; ok {
		return p.servers(transport.DoT), nil
	}
	scheme, rest, isURL := strings.Cut(s, "://")
	if !isURL {
		srv, err := parseAddress(s)
		return []transport.Server{srv}, err
	}
	scheme = strings.ToLower(scheme)
	if scheme == "sdns" {
		srv, err := parseStamp(rest)
		return []transport.Server{srv}, err
	}
	protocol, err := parseScheme(scheme)
	if err != nil {
		return nil, err
	}
	if p, ok := presets[strings.ToLower(rest)]; ok {
		return p.over(protocol, strings.ToLower(rest))
	}
	srv, err := parseURL(protocol, rest)
	return []transport.Server{srv}, err
}

// parseAddress parses a server of DNS over TLS in the form without a scheme.
func parseAddress(s string) (transport.Server, error) {
	where, name, hasName := strings.Cut(s, "#")
	addrs, err := parseAddrs(where, transport.DoT.Port())
	if err != nil {
		return transport.Server{}, err
	}
	return withName(transport.Server{Addr: addrs[0], Also: addrs[1:]}, name, hasName)
}

// withName adds the name that follows the addresses of a server.
func withName(srv transport.Server, name string, hasName bool) (transport.Server, error) {
	if !hasName {
		return srv, nil
	}
	srv.Name = cleanName(name)
	return srv, CheckName(srv.Name)
}

func cleanName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// parseAddrs parses addresses separated by commas.
func parseAddrs(s string, defaultPort uint16) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	ports := 0
	for part := range strings.SplitSeq(s, ",") {
		addr, hasPort, err := parseAddr(part, defaultPort)
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
func parseAddr(s string, defaultPort uint16) (addr netip.AddrPort, hasPort bool, err error) {
	host, port, hasPort := splitPort(s)
	p := defaultPort
	if hasPort {
		if p, err = parsePort(port); err != nil {
			return addr, false, err
		}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return addr, false, addressError(host)
	}
	ip, err = checkAddr(ip)
	return netip.AddrPortFrom(ip, p), hasPort, err
}

// checkAddr returns an error if a server cannot have that address. An IPv4 address in IPv6
// form becomes an IPv4 address.
func checkAddr(ip netip.Addr) (netip.Addr, error) {
	if ip.IsUnspecified() || ip.IsMulticast() {
		return ip, fmt.Errorf("%s cannot be a server's address: want a unicast address", ip)
	}
	return ip.Unmap(), nil
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
	if err != nil || p == 0 {
		return 0, fmt.Errorf("%q is not a port: want a number from 1 to 65535", s)
	}
	return uint16(p), nil
}

// addressError explains why host is not an IP address.
func addressError(host string) error {
	switch reason, discontinued := discontinuedPresets[strings.ToLower(host)]; {
	case discontinued:
		return errors.New(reason)
	case host == "":
		return fmt.Errorf("the address is missing: want %s, a URL such as https://dns.example/dns-query, or one of %s", syntax, strings.Join(Presets(), ", "))
	case CheckName(host) == nil && !strings.ContainsAny(host, ":"):
		return fmt.Errorf("%q is neither an IP address nor one of %s: write ADDRESS#%s if you know its address, or tls://%s",
			host, strings.Join(Presets(), ", "), host, host)
	}
	return fmt.Errorf("%q is not an IP address: want %s, with an IPv6 address and a port as [ADDR]:PORT", host, syntax)
}

// CheckName returns an error if a name cannot be in a certificate (RFC 6125).
func CheckName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("the name %q is an address: remove #%s, the certificate is checked for the address without it", name, name)
	}
	if name == "" || len(name) > 253 {
		return errors.New("the name of the server is empty or too long: write ADDR#NAME, or ADDR alone for a certificate that contains the address")
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
