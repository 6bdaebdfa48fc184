// SPDX-License-Identifier: Apache-2.0

package address

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sotto/forwarder/upstream/transport"
)

// defaultPath is the path of DNS over HTTPS that most servers have (RFC 8484 §4.1.1).
const defaultPath = "/dns-query"

// parseScheme returns the protocol of a URL scheme.
func parseScheme(scheme string) (transport.Protocol, error) {
	for _, p := range []transport.Protocol{transport.DoT, transport.DoH, transport.DoH3, transport.DoQ, transport.Auto} {
		if scheme == p.Scheme() {
			return p, nil
		}
	}
	switch scheme {
	case "dot":
		return 0, errors.New("the scheme dot is not known: write tls://")
	case "doq":
		return 0, errors.New("the scheme doq is not known: write quic://")
	case "doh", "http", "http2", "h2":
		return 0, fmt.Errorf("the scheme %s is not known: write https://, or h3:// for HTTP/3", scheme)
	case "http3", "doh3":
		return 0, fmt.Errorf("the scheme %s is not known: write h3://", scheme)
	case "udp", "tcp", "dns":
		return 0, fmt.Errorf("%s:// is plain DNS, which is never used for upstreams: write tls://, https://, h3:// or quic:// if the server offers it", scheme)
	}
	return 0, fmt.Errorf("the scheme %q is not known: want tls, https, h3, quic, auto or sdns", scheme)
}

// parseURL parses what follows "://" in a URL.
func parseURL(protocol transport.Protocol, rest string) (transport.Server, error) {
	srv, err := parseHost(protocol, rest)
	if err == nil {
		err = checkPort(srv)
	}
	return srv, err
}

// checkPort returns an error if a server cannot have its port.
func checkPort(srv transport.Server) error {
	if srv.Protocol == transport.DoQ && srv.Addr.Port() == 53 {
		return errors.New("DNS over QUIC must not use port 53 (RFC 9250 §4.1.1): write the port that the server's operator documents, or none for 853")
	}
	return nil
}

// parseHost is parseURL without a check of the port.
func parseHost(protocol transport.Protocol, rest string) (srv transport.Server, err error) {
	rest, fragment, hasFragment := strings.Cut(rest, "#")
	host, path := rest, ""
	if at := strings.IndexAny(rest, "/?{"); at >= 0 {
		host, path = rest[:at], rest[at:]
	}
	srv.Protocol = protocol
	if srv.Path, err = parsePath(protocol, path); err != nil {
		return srv, err
	}
	if strings.Contains(host, "@") {
		return srv, fmt.Errorf("%q contains a user name: remove it; to authenticate this machine use client-cert and client-key", host)
	}
	if !isAddress(host) {
		return parseNamed(srv, host, fragment, hasFragment)
	}
	addrs, err := parseAddrs(host, protocol.Port())
	if err != nil {
		return srv, err
	}
	for _, a := range addrs {
		switch {
		case protocol == transport.Auto && a.Port() != 0:
			return srv, errAutoPort
		case protocol != transport.DoT && a.Port() != addrs[0].Port():
			return srv, fmt.Errorf("%q has different ports: want the same one with each address", host)
		}
	}
	srv.Addr, srv.Also = addrs[0], addrs[1:]
	return withName(srv, fragment, hasFragment)
}

var errAutoPort = errors.New("auto:// with a port: remove it, each protocol has its own; or name the protocol, like quic://dns.example:8853")

// isAddress reports whether host is meant as an address, or as several.
func isAddress(host string) bool {
	first, _, _ := strings.Cut(host, ",")
	if strings.HasPrefix(first, "[") || strings.Count(first, ":") > 1 {
		return true
	}
	text, _, _ := splitPort(first)
	_, err := netip.ParseAddr(text)
	return err == nil || text == ""
}

// parseNamed parses NAME[:PORT], and the addresses that follow it.
func parseNamed(srv transport.Server, host, fragment string, hasFragment bool) (transport.Server, error) {
	name, port, hasPort := splitPort(host)
	number := srv.Protocol.Port()
	if hasPort {
		var err error
		if number, err = parsePort(port); err != nil {
			return srv, err
		}
		if srv.Protocol == transport.Auto {
			return srv, errAutoPort
		}
	}
	srv.Name = cleanName(name)
	if err := CheckName(srv.Name); err != nil {
		return srv, err
	}
	if reason, discontinued := discontinuedPresets[srv.Name]; discontinued {
		return srv, errors.New(reason)
	}
	srv.Addr = netip.AddrPortFrom(netip.Addr{}, number)
	if !hasFragment {
		return srv, nil
	}
	addrs, err := parseBareAddrs(fragment, number)
	if err != nil {
		return srv, err
	}
	srv.Addr, srv.Also = addrs[0], addrs[1:]
	return srv, nil
}

// parseBareAddrs parses the addresses after the # of a URL, which have the URL's port.
func parseBareAddrs(s string, port uint16) ([]netip.AddrPort, error) {
	var addrs []netip.AddrPort
	for part := range strings.SplitSeq(s, ",") {
		if inner, ok := strings.CutPrefix(part, "["); ok && strings.HasSuffix(inner, "]") {
			part = inner[:len(inner)-1]
		}
		ip, err := netip.ParseAddr(part)
		if err != nil {
			return nil, fmt.Errorf("%q after # is not an IP address: want the addresses of the server, without a port, like #192.0.2.1,2001:db8::1", part)
		}
		if ip, err = checkAddr(ip); err != nil {
			return nil, err
		}
		addr := netip.AddrPortFrom(ip, port)
		if slices.Contains(addrs, addr) {
			return nil, fmt.Errorf("%s is listed twice: remove one", ip)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// parsePath checks the path of a URL, and returns the default in place of an empty one.
func parsePath(protocol transport.Protocol, path string) (string, error) {
	if !protocol.HasPath() {
		if path != "" && path != "/" {
			return "", fmt.Errorf("%s:// has no path: remove %q, or write https:// or h3:// for DNS over HTTPS", protocol.Scheme(), path)
		}
		return "", nil
	}
	plain, isTemplate := strings.CutSuffix(path, transport.GetTemplate)
	switch {
	case strings.ContainsAny(plain, "{}"):
		return "", fmt.Errorf("%q is a URI template with other parts than {?dns} at its end: write the path, or PATH{?dns} for GET (RFC 8484)", path)
	case strings.Contains(plain, "?"):
		return "", fmt.Errorf("%q has a query: remove what follows the ?, or write {?dns} for GET (RFC 8484)", path)
	case plain == "" || plain == "/" && !isTemplate:
		plain = defaultPath
	}
	for _, c := range []byte(plain) {
		if c <= ' ' || c >= 0x7F || strings.IndexByte(`"<>\^|`+"`", c) >= 0 {
			return "", fmt.Errorf("the path %q contains %q: encode it, as %%%02X (RFC 3986 §2.1)", path, c, c)
		}
	}
	if isTemplate {
		plain += transport.GetTemplate
	}
	return plain, nil
}
