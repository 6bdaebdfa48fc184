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

// Extractor returns the IPv4 address that an IPv6 address stands for. It reports false for others.
type Extractor func(v6 netip.Addr) (v4 netip.Addr, ok bool)

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
	return x.check(query, reply), nil
}

// check returns reply, or what replaces it.
func (x *Exchanger) check(query, reply []byte) []byte {
	name, _, class := wire.QuestionOf(query)
	if class != wire.ClassIN || len(reply) < wire.HeaderLen {
		return reply
	}
	additional := false
	for rr := range wire.Records(reply) {
		a := x.privateIn(reply, rr)
		switch {
		case !a.IsValid():
		case x.isAllowed(name):
			return reply
		case rr.Section != wire.SectionAdditional:
			return refusal(query, name, a)
		default:
			additional = true
		}
	}
	if additional {
		return withoutAdditional(reply)
	}
	return reply
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
func (x *Exchanger) privateIn(msg []byte, rr wire.RR) netip.Addr {
	data := msg[rr.Data:rr.End]
	switch {
	case rr.Class != wire.ClassIN:
	case rr.Type == wire.TypeA && len(data) == 4, rr.Type == wire.TypeAAAA && len(data) == 16:
		return x.firstPrivate(data, len(data))
	case rr.Type == wire.TypeSVCB, rr.Type == wire.TypeHTTPS:
		return x.privateHint(data)
	}
	return netip.Addr{}
}

// privateHint returns the first address in the hints of a record that is not on the Internet. The
// name of a target is not compressed (RFC 9460 §2.2); what cannot be read has no hints.
func (x *Exchanger) privateHint(data []byte) netip.Addr {
	off := 2
	for {
		if off >= len(data) || data[off] > wire.MaxLabel {
			return netip.Addr{}
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
		switch value := data[off : off+size]; key {
		case keyHint4:
			if a := x.firstPrivate(value, 4); a.IsValid() {
				return a
			}
		case keyHint6:
			if a := x.firstPrivate(value, 16); a.IsValid() {
				return a
			}
		}
		off += size
	}
	return netip.Addr{}
}

// firstPrivate returns the first of several addresses of that size that is not on the Internet.
func (x *Exchanger) firstPrivate(data []byte, size int) netip.Addr {
	for ; len(data) >= size; data = data[size:] {
		a, _ := netip.AddrFromSlice(data[:size])
		if IsPrivate(a) {
			return a
		}
		if x.extract == nil || size != 16 {
			continue
		}
		if v4, ok := x.extract(a); ok && IsPrivate(v4) {
			return a
		}
	}
	return netip.Addr{}
}
