// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"sotto/forwarder/wire"
)

// Upstream sends a query and returns the reply, as forwarder.Exchanger does.
type Upstream interface {
	Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error)
}

// Exchanger answers queries with the answers of an upstream, and with translated ones where that
// has no IPv6 address. Its methods are safe for concurrent use.
type Exchanger struct {
	up     Upstream
	prefix netip.Prefix // zero: it is found
	finder finder
}

// New returns an Exchanger. With the zero prefix, it finds the prefix itself when it is first
// needed, and again when the answer expires.
func New(up Upstream, prefix netip.Prefix) *Exchanger {
	return &Exchanger{up: up, prefix: prefix, finder: finder{up: up}}
}

// NetworkChanged forgets a prefix that was found: another network may have another one.
func (x *Exchanger) NetworkChanged() { x.finder.forget() }

// Extract returns the IPv4 address that an IPv6 address stands for by the prefix. It reports false
// for other addresses, and if there is no prefix. A prefix that is not known yet is looked for until
// the given time; if that fails, Extract returns an error.
func (x *Exchanger) Extract(ctx context.Context, v6 netip.Addr, until time.Time) (v4 netip.Addr, ok bool, err error) {
	p, err := x.current(ctx, until)
	if err != nil || !p.IsValid() {
		return v4, false, err
	}
	v4, ok = Extract(p, v6)
	return v4, ok, nil
}

// Exchange implements forwarder.Exchanger.
func (x *Exchanger) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	name, typ, class := wire.QuestionOf(query)
	switch {
	case class != wire.ClassIN || wire.WantsDNSSEC(query) && query[3]&bitCD != 0:
	case typ == wire.TypeAAAA:
		return x.addresses(ctx, query, until)
	case typ == wire.TypePTR:
		p, err := x.prefixFor(ctx, until, name)
		if err != nil {
			return nil, err
		}
		if target, ok := reverseName(p, name); ok {
			return x.pointer(ctx, query, target, until)
		}
	}
	return x.up.Exchange(ctx, query, until)
}

// prefixFor returns the prefix if a name may be that of one of its addresses.
func (x *Exchanger) prefixFor(ctx context.Context, until time.Time, name []byte) (netip.Prefix, error) {
	if !isReverse6(name) {
		return netip.Prefix{}, nil
	}
	return x.current(ctx, until)
}

// current returns the prefix, or the zero prefix if there is none. If it could not be found, current
// returns an error.
func (x *Exchanger) current(ctx context.Context, until time.Time) (netip.Prefix, error) {
	if x.prefix.IsValid() {
		return x.prefix, nil
	}
	return x.finder.find(ctx, until)
}

// addresses answers a query for AAAA. If it cannot be found out which addresses there are, it fails: a
// negative answer would be cached.
func (x *Exchanger) addresses(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	reply, err := x.up.Exchange(ctx, query, until)
	if err != nil || len(reply) < wire.HeaderLen || reply[2]&bitTC != 0 {
		return reply, err
	}
	switch judge(reply) {
	case useAsIs:
		return reply, nil
	case useOthers:
		if others, ok := withoutExcluded(query, reply); ok {
			return others, nil
		}
		return reply, nil
	}
	p, err := x.current(ctx, until)
	if err != nil {
		return nil, err
	}
	if !p.IsValid() {
		return reply, nil
	}
	a, err := x.up.Exchange(ctx, withType(query, wire.TypeA), until)
	if err != nil || len(a) < wire.HeaderLen {
		return a, err
	}
	if a[2]&bitTC != 0 || !wire.IsAnswer(wire.Rcode(a)) {
		return withoutRecords(query, a), nil
	}
	if made, ok := synthesize(p, query, a, negativeTTL(reply)); ok {
		return made, nil
	}
	if _, err := wire.ParseReply(a); err != nil {
		return nil, err
	}
	return reply, nil
}

// withType returns a copy of a query with another type.
func withType(query []byte, typ uint16) []byte {
	name, _, _ := wire.QuestionOf(query)
	q := append([]byte(nil), query...)
	binary.BigEndian.PutUint16(q[wire.HeaderLen+len(name):], typ)
	return q
}

// pointer answers a query for PTR with the records of another name.
func (x *Exchanger) pointer(ctx context.Context, query, target []byte, until time.Time) ([]byte, error) {
	q, err := newQuery(target, wire.TypePTR, query[3]&bitCD, wire.WantsDNSSEC(query))
	if err != nil {
		return nil, err
	}
	reply, err := x.up.Exchange(ctx, q, until)
	if err != nil || len(reply) < wire.HeaderLen {
		return reply, err
	}
	if made, ok := reverse(query, reply); ok {
		return made, nil
	}
	return x.up.Exchange(ctx, query, until)
}

// newQuery returns a query for an upstream.
func newQuery(name []byte, typ uint16, cd byte, do bool) ([]byte, error) {
	msg := append([]byte{0, 0, bitRD, cd, 0, 1, 0, 0, 0, 0, 0, 0}, name...)
	msg = binary.BigEndian.AppendUint16(msg, typ)
	msg = binary.BigEndian.AppendUint16(msg, wire.ClassIN)
	q, err := wire.ParseQuery(msg)
	if err != nil {
		return nil, err
	}
	q.DO = do
	return wire.AppendQuery(nil, &q), nil
}
