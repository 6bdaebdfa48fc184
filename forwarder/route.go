// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"net/netip"
	"time"

	"sotto/forwarder/wire"
)

// Action is what is done with a query.
type Action uint8

const (
	// Forward: it is answered from the cache, or asked at [Route.Upstream].
	Forward Action = iota
	// Plain: it is handed, as it is and in plain DNS, to the nameserver that
	// the client meant ([Config.Nameserver]). Nothing of it is cached or shared.
	Plain
	// Refuse: REFUSED.
	Refuse
	// NoData: the name is there, and has no record of that type.
	NoData
	// RefuseRemoved: REFUSED, because rules ask for the workload and it cannot be
	// named any more ([Origin.Removed]).
	RefuseRemoved
)

// Route is what a [Router] decides.
type Route struct {
	Action Action

	// Upstream is whom to ask; nil means [Config.Upstream].
	Upstream Exchanger

	// Scope parts the answers of one upstream from those of others: what was
	// learnt in one scope is never an answer in another. It outlives a restart
	// where the cache does, so it is a name and no number; at most 64 bytes.
	Scope string

	// Rule is the number of the rule that decided, from 1; 0: none did, and
	// names with a meaning of their own (resolver.arpa) get their answer.
	Rule int
}

// Router decides what becomes of a query. It is called once a query, concurrently,
// and must not block or keep what it is given.
type Router func(q *wire.Query, o *Origin) Route

// maxScope is for the room of keys; a longer scope only costs an allocation.
const maxScope = 64

// Nameserver carries queries in plain DNS to the nameserver that a client meant.
// Its errors may have a method EDE() wire.EDE.
type Nameserver interface {
	// Exchange sends a client's message with another ID, over TCP or UDP, and
	// returns the reply, whose ID is not the client's either.
	Exchange(ctx context.Context, to netip.AddrPort, query []byte, tcp bool, until time.Time) ([]byte, error)

	// Transfer asks for a zone over TCP and hands over each message of the
	// reply, until the transfer is complete or each returns an error. until
	// bounds the wait for the first message.
	Transfer(ctx context.Context, to netip.AddrPort, query []byte, until time.Time, each func(msg []byte) error) error
}

// SetRouter has r decide from here on. What is in flight ends as it began.
func (f *Forwarder) SetRouter(r Router) { f.router.Store(&r) }

// route asks the router.
func (f *Forwarder) route(q *wire.Query, o *Origin) Route {
	var rt Route
	if r := f.router.Load(); r != nil && *r != nil {
		rt = (*r)(q, o)
	}
	if rt.Upstream == nil {
		rt.Upstream = f.cfg.Upstream
	}
	return rt
}

// appendKey appends the key under which the answer to r is kept and shared.
func (r *request) appendKey(dst []byte) []byte {
	return append(wire.AppendKey(dst, &r.q), r.route.Scope...)
}
