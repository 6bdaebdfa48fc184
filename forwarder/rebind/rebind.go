// SPDX-License-Identifier: Apache-2.0

package rebind

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"sotto/forwarder/wire"
)

// Upstream sends a query and returns the reply, as forwarder.Exchanger does.
type Upstream interface {
	Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error)
}

// Exchanger checks the answers of an upstream. Its methods are safe for concurrent use.
type Exchanger struct {
	up      Upstream
	allowed map[string]bool // wire names in lower case
	extract Extractor       // may be nil
}

// Extractor returns the IPv4 address that an IPv6 address stands for. It reports false for others. It
// may look that up until the given time, and returns an error if it cannot be found out.
type Extractor func(ctx context.Context, v6 netip.Addr, until time.Time) (v4 netip.Addr, ok bool, err error)

// extractor is an Extractor for the addresses of one answer.
type extractor func(v6 netip.Addr) (v4 netip.Addr, ok bool, err error)

// New returns an Exchanger. allowed are names in wire form. extract, unless nil, is for addresses
// that the network translates to IPv4, in addition to those of the well-known prefixes.
func New(up Upstream, allowed [][]byte, extract Extractor) *Exchanger {
	x := &Exchanger{up: up, allowed: make(map[string]bool, len(allowed)), extract: extract}
	for _, name := range allowed {
		x.allowed[string(lower(name))] = true
	}
	return x
}

func lower(name []byte) []byte {
	out := make([]byte, len(name))
	for i, c := range name {
		out[i] = wire.Lower(c)
	}
	return out
}

// Exchange implements forwarder.Exchanger.
func (x *Exchanger) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	reply, err := x.up.Exchange(ctx, query, until)
	if err != nil {
		return nil, err
	}
	var extract extractor
	if x.extract != nil {
		extract = func(v6 netip.Addr) (netip.Addr, bool, error) { return x.extract(ctx, v6, until) }
	}
	return x.check(query, reply, extract)
}

// check returns reply, or what replaces it. It returns an error if extract cannot find out what an
// address stands for.
func (x *Exchanger) check(query, reply []byte, extract extractor) ([]byte, error) {
	name, _, class := wire.QuestionOf(query)
	if class != wire.ClassIN || len(reply) < wire.HeaderLen || x.isAllowed(name) {
		return reply, nil
	}
	additional := false
	for rr := range wire.Records(reply) {
		a, err := privateIn(reply, rr, extract)
		switch {
		case err == nil && !a.IsValid():
		case rr.Section == wire.SectionAdditional:
			additional = true
		case err != nil:
			return nil, err
		default:
			return refusal(query, name, a), nil
		}
	}
	if additional {
		return withoutAdditional(reply), nil
	}
	return reply, nil
}

// isAllowed reports whether a name, or one that it is below, is allowed.
func (x *Exchanger) isAllowed(name []byte) bool {
	if len(x.allowed) == 0 {
		return false
	}
	for name := lower(name); len(name) > 0; name = name[1+int(name[0]):] {
		if x.allowed[string(name)] {
			return true
		}
		if name[0] == 0 {
			break
		}
	}
	return false
}

// refusal returns the answer without records.
func refusal(query, name []byte, a netip.Addr) []byte {
	q, err := wire.ParseQuery(query)
	if err != nil {
		return nil // not reached: the query is Sotto's own
	}
	text := fmt.Sprintf("rebinding protection: %s has the address %s, which is not on the Internet: if that is intended, add the name to rebinding-allow", wire.Name(name), a)
	return wire.AppendLocal(nil, &q, wire.Local{SOA: true}, 0, wire.EDE{Code: wire.EDEBlocked, Text: text})
}

// withoutAdditional returns reply without its additional section, except for OPT.
func withoutAdditional(reply []byte) []byte {
	end := 0
	var opt []byte
	for rr := range wire.Records(reply) {
		if rr.Section != wire.SectionAdditional {
			continue
		}
		if end == 0 {
			end = rr.Owner
		}
		if rr.Type == wire.TypeOPT {
			opt = append(opt, reply[rr.Owner:rr.End]...)
		}
	}
	out := append([]byte(nil), reply[:end]...)
	binary.BigEndian.PutUint16(out[10:], 0)
	if opt != nil {
		out[11] = 1
	}
	return append(out, opt...)
}

// Keys of the parameters of SVCB and HTTPS with addresses (RFC 9460 §7.3).
const (
	keyHint4 = 4
	keyHint6 = 6
)

// privateIn returns the first address of a record that is not on the Internet.
func privateIn(msg []byte, rr wire.RR, extract extractor) (netip.Addr, error) {
	data := msg[rr.Data:rr.End]
	switch {
	case rr.Class != wire.ClassIN:
	case rr.Type == wire.TypeA && len(data) == 4, rr.Type == wire.TypeAAAA && len(data) == 16:
		return firstPrivate(data, len(data), extract)
	case rr.Type == wire.TypeSVCB, rr.Type == wire.TypeHTTPS:
		return privateHint(data, extract)
	}
	return netip.Addr{}, nil
}

// privateHint returns the first address in the hints of a record that is not on the Internet. The
// name of a target is not compressed (RFC 9460 §2.2); what cannot be read has no hints.
func privateHint(data []byte, extract extractor) (netip.Addr, error) {
	off := 2
	for {
		if off >= len(data) || data[off] > wire.MaxLabel {
			return netip.Addr{}, nil
		}
		n := int(data[off])
		off += 1 + n
		if n == 0 {
			break
		}
	}
	for off+4 <= len(data) {
		key, size := binary.BigEndian.Uint16(data[off:]), int(binary.BigEndian.Uint16(data[off+2:]))
		off += 4
		if off+size > len(data) {
			break
		}
		each := 0 // bytes of an address
		switch key {
		case keyHint4:
			each = 4
		case keyHint6:
			each = 16
		}
		if each > 0 {
			if a, err := firstPrivate(data[off:off+size], each, extract); a.IsValid() || err != nil {
				return a, err
			}
		}
		off += size
	}
	return netip.Addr{}, nil
}

// firstPrivate returns the first of several addresses of that size that is not on the Internet.
// extract is asked only if none is private by itself.
func firstPrivate(data []byte, size int, extract extractor) (netip.Addr, error) {
	for rest := data; len(rest) >= size; rest = rest[size:] {
		if a, _ := netip.AddrFromSlice(rest[:size]); IsPrivate(a) {
			return a, nil
		}
	}
	for rest := data; extract != nil && size == 16 && len(rest) >= size; rest = rest[size:] {
		a, _ := netip.AddrFromSlice(rest[:size])
		v4, ok, err := extract(a)
		switch {
		case err != nil:
			return netip.Addr{}, err
		case ok && IsPrivate(v4):
			return a, nil
		}
	}
	return netip.Addr{}, nil
}
