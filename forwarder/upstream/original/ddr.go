// SPDX-License-Identifier: Apache-2.0

package original

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/address"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

const (
	// maxDesignated limits the servers that are tried.
	maxDesignated = 4

	// A designation is valid for its TTL, within these limits.
	minDesignation = 5 * time.Minute
	maxDesignation = 24 * time.Hour
)

// ddrQuery asks for the designated servers of a nameserver (RFC 9462 §4), as stub resolvers do: in
// plain DNS, without the options of queries over TLS.
var ddrQuery = []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x04_dns\x08resolver\x04arpa\x00\x00\x40\x00\x01" +
	"\x00\x00\x29\x04\xD0\x00\x00\x00\x00\x00\x00") // OPT with a size of 1,232

var errNotDesignated = errors.New("it designates no server that Sotto can use")

// protocols are the protocol names (ALPN) of the transports that [upstream.Group] has.
var protocols = map[string]transport.Protocol{"dot": transport.DoT, "doq": transport.DoQ, "h2": transport.DoH, "h3": transport.DoH3}

// pathVariable ends the paths of DNS over HTTPS in DDR (RFC 9461 §5). Without it queries are sent
// with POST.
const pathVariable = "{?dns}"

// Keys of the parameters of SVCB (RFC 9460 §14.3.2).
const (
	keyMandatory = 0
	keyALPN      = 1
	keyPort      = 3
	keyHint4     = 4
	keyHint6     = 6
	keyDoHPath   = 7 // RFC 9461 §5
)

// designation is one SVCB record.
type designation struct {
	priority uint16
	target   []byte // wire form
	alpn     []string
	port     uint16 // 0: the default
	path     string // of DNS over HTTPS
	hints    []netip.Addr
	usable   bool
}

// parseDesignated returns the servers that the reply of a nameserver to ddrQuery designates, the
// preferred ones first, and how long the designation is valid. It is pure, and leaves found.expires
// to its caller.
func parseDesignated(nameserver netip.Addr, msg []byte) (servers []found, ttl time.Duration, err error) {
	reply, err := wire.ParseReply(msg)
	switch {
	case err != nil:
		return nil, 0, err
	case reply.Rcode != wire.RcodeSuccess:
		return nil, 0, fmt.Errorf("%w (%s)", errNotDesignated, wire.RcodeName(reply.Rcode))
	}
	var list []designation
	addresses := map[string][]netip.Addr{}
	for rr := range wire.Records(reply.Msg) {
		data := reply.Msg[rr.Data:rr.End]
		switch {
		case rr.Class != wire.ClassIN:
		case rr.Section == wire.SectionAnswer && rr.Type == wire.TypeSVCB:
			if d := parseSVCB(data); d.usable {
				list = append(list, d)
			}
		case rr.Section == wire.SectionAdditional && (rr.Type == wire.TypeA || rr.Type == wire.TypeAAAA):
			if owner, ok := wire.AppendExpanded(nil, reply.Msg, rr.Owner); ok {
				a, _ := netip.AddrFromSlice(data)
				key := strings.ToLower(wire.Name(owner))
				addresses[key] = append(addresses[key], a)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b designation) int { return int(a.priority) - int(b.priority) })
	for _, d := range list[:min(len(list), maxDesignated)] {
		for _, s := range d.servers(nameserver, addresses) {
			servers = append(servers, found{how: "ddr", server: s, priority: d.priority})
		}
	}
	if len(servers) == 0 {
		return nil, 0, errNotDesignated
	}
	ttl = min(max(time.Duration(reply.TTL)*time.Second, minDesignation), maxDesignation)
	return servers, ttl, nil
}

// servers returns one server for each transport of a designation. Its addresses are those of the
// reply, or that of the nameserver: to look the name up would need another query in plain DNS.
func (d *designation) servers(nameserver netip.Addr, addresses map[string][]netip.Addr) (servers []upstream.Server) {
	name := strings.ToLower(strings.TrimSuffix(wire.Name(d.target), "."))
	all := slices.Concat(d.hints, addresses[name+"."])
	if len(all) == 0 {
		all = []netip.Addr{nameserver}
	}
	if address.CheckName(name) != nil { // "." means the owner, which is no name of a host
		name = ""
	}
	for _, alpn := range d.alpn {
		protocol, ok := protocols[alpn]
		if !ok {
			continue
		}
		s := upstream.Server{Protocol: protocol, Name: name, CertAddr: nameserver}
		if protocol == transport.DoH || protocol == transport.DoH3 {
			if s.Path, ok = strings.CutSuffix(d.path, pathVariable); !ok || !strings.HasPrefix(s.Path, "/") {
				continue
			}
		}
		port := cmp.Or(d.port, protocol.Port())
		for _, a := range all {
			at := netip.AddrPortFrom(a.Unmap(), port)
			switch {
			case a.IsUnspecified() || a.IsMulticast():
			case !s.Addr.IsValid():
				s.Addr = at
			case at != s.Addr && !slices.Contains(s.Also, at) && len(s.Also) < 3:
				s.Also = append(s.Also, at)
			}
		}
		if s.Addr.IsValid() {
			servers = append(servers, s)
		}
	}
	return servers
}

// parseSVCB reads the data of an SVCB record in service mode. It is not usable if it cannot be read,
// or if it needs a parameter that is unknown here.
func parseSVCB(data []byte) (d designation) {
	if len(data) < 3 {
		return d
	}
	d.priority = binary.BigEndian.Uint16(data)
	off := 2
	for off < len(data) && data[off] != 0 {
		off += 1 + int(data[off])
	}
	if off >= len(data) || d.priority == 0 {
		return d
	}
	off++
	d.target = data[2:off]
	for off+4 <= len(data) {
		key, size := binary.BigEndian.Uint16(data[off:]), int(binary.BigEndian.Uint16(data[off+2:]))
		if off += 4; off+size > len(data) {
			return d
		}
		if !d.parameter(key, data[off:off+size]) {
			return d
		}
		off += size
	}
	d.usable = off == len(data)
	return d
}

// parameter reads one parameter.
func (d *designation) parameter(key uint16, value []byte) bool {
	switch key {
	case keyMandatory:
		for ; len(value) >= 2; value = value[2:] {
			switch binary.BigEndian.Uint16(value) {
			case keyALPN, keyPort, keyHint4, keyHint6, keyDoHPath:
			default:
				return false
			}
		}
	case keyALPN:
		for len(value) > 0 {
			n := int(value[0])
			if n >= len(value) {
				return false
			}
			d.alpn = append(d.alpn, string(value[1:1+n]))
			value = value[1+n:]
		}
	case keyPort:
		if len(value) != 2 {
			return false
		}
		d.port = binary.BigEndian.Uint16(value)
	case keyDoHPath:
		d.path = string(value)
	case keyHint4, keyHint6:
		size := 4
		if key == keyHint6 {
			size = 16
		}
		for ; len(value) >= size; value = value[size:] {
			a, _ := netip.AddrFromSlice(value[:size])
			d.hints = append(d.hints, a)
		}
	}
	return true
}
