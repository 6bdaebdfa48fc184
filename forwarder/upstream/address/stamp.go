// SPDX-License-Identifier: Apache-2.0

package address

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"sotto/forwarder/upstream/transport"
)

// Protocol identifiers of DNS stamps (https://dnscrypt.info/stamps-specifications and
// draft-denis-dns-stamps).
const (
	stampPlain    = 0x00
	stampDNSCrypt = 0x01
	stampDoH      = 0x02
	stampDoT      = 0x03
	stampDoQ      = 0x04
	stampODoH     = 0x05
)

var errStampShort = errors.New("the stamp ends too early: copy all of it")

// parseStamp parses the base64 text of a DNS stamp. Its properties (DNSSEC, no logs, no
// filter) are what the list's author states of the server, and are ignored. Addresses of
// plain bootstrap resolvers are ignored as well: they are never asked.
func parseStamp(text string) (srv transport.Server, err error) {
	// The specification has no padding; some generators add it.
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return srv, fmt.Errorf("the stamp is not in base64url (%w): copy all of it", err)
	}
	r := stampReader{rest: raw}
	switch kind := r.byte(); {
	case len(raw) == 0:
		return srv, errStampShort
	case kind == stampDoH:
		srv.Protocol = transport.DoH
	case kind == stampDoT:
		srv.Protocol = transport.DoT
	case kind == stampDoQ:
		srv.Protocol = transport.DoQ
	case kind == stampPlain:
		return srv, errors.New("the stamp is for plain DNS, which is never used for upstreams: use a stamp for DoH, DoT or DoQ")
	case kind == stampDNSCrypt, kind > 0x80:
		return srv, errors.New("the stamp is for DNSCrypt, which is not supported: use a stamp for DoH, DoT or DoQ; most operators offer one of them too")
	case kind == stampODoH:
		return srv, errors.New("the stamp is for Oblivious DoH, which is not supported: use a stamp for DoH, DoT or DoQ")
	default:
		return srv, fmt.Errorf("the stamp is for an unknown protocol (0x%02x): use a stamp for DoH, DoT or DoQ", kind)
	}
	r.skip(8) // properties
	addr := r.text()
	hashes := r.set()
	host := r.text()
	path := ""
	if srv.Protocol == transport.DoH {
		path = r.text()
	}
	if r.err != nil {
		return srv, r.err
	}
	if len(r.rest) > 0 {
		r.set() // plain bootstrap resolvers
	}
	if r.err != nil || len(r.rest) > 0 {
		return srv, errors.New("the stamp has data after its end: copy it again")
	}
	if srv, err = stampServer(srv, addr, host, path, hashes); err != nil {
		return srv, err
	}
	return srv, checkPort(srv)
}

// stampServer fills srv from the fields of a stamp.
func stampServer(srv transport.Server, addr, host, path string, hashes [][]byte) (transport.Server, error) {
	for _, h := range hashes {
		switch len(h) {
		case 0: // an empty set has one empty element
		case len(transport.Pin{}):
			srv.CertHashes = append(srv.CertHashes, transport.Pin(h))
		default:
			return srv, fmt.Errorf("the stamp has a certificate hash of %d bytes: want the 32 of a SHA-256", len(h))
		}
	}
	var err error
	if srv.Path, err = parsePath(srv.Protocol, path); err != nil {
		return srv, err
	}
	// A port may be with the name or, as the draft has it, with the address.
	name, port, hasPort := splitPort(host)
	number := srv.Protocol.Port()
	if hasPort {
		if number, err = parsePort(port); err != nil {
			return srv, err
		}
	}
	if text, ok := strings.CutPrefix(addr, ":"); ok && !strings.HasPrefix(text, ":") {
		if number, err = parsePort(text); err != nil {
			return srv, err
		}
		addr = ""
	}
	srv.Addr = netip.AddrPortFrom(netip.Addr{}, number)
	if addr != "" {
		if srv.Addr, _, err = parseAddr(addr, number); err != nil {
			return srv, err
		}
	}
	if ip, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		// The name is an address, which the certificate has to contain.
		if srv.Addr.Addr().IsValid() && srv.Addr.Addr() != ip.Unmap() {
			return srv, fmt.Errorf("the stamp has the address %s and, as its name, the address %s: write SCHEME://ADDR", srv.Addr.Addr(), ip)
		}
		ip, err = checkAddr(ip)
		srv.Addr = netip.AddrPortFrom(ip, srv.Addr.Port())
		return srv, err
	}
	if name == "" && srv.Addr.Addr().IsValid() {
		return srv, nil
	}
	srv.Name = cleanName(name)
	return srv, CheckName(srv.Name)
}

// stampReader reads the fields of a stamp. After an error all fields are empty.
type stampReader struct {
	rest []byte
	err  error
}

func (r *stampReader) skip(n int) []byte {
	if len(r.rest) < n {
		r.rest, r.err = nil, errStampShort
		return nil
	}
	field := r.rest[:n]
	r.rest = r.rest[n:]
	return field
}

func (r *stampReader) byte() byte {
	if b := r.skip(1); b != nil {
		return b[0]
	}
	return 0
}

// text reads LP(x).
func (r *stampReader) text() string { return string(r.skip(int(r.byte()))) }

// set reads VLP(x1, x2, …).
func (r *stampReader) set() [][]byte {
	var set [][]byte
	for {
		n := r.byte()
		set = append(set, r.skip(int(n&0x7F)))
		if n&0x80 == 0 || r.err != nil {
			return set
		}
	}
}
