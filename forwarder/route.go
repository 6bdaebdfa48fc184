// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"sotto/forwarder/records"
	"sotto/forwarder/wire"
)

// Action is what happens to a query.
type Action uint8

const (
	// Forward answers the query from the cache or from [Route.Upstream].
	Forward Action = iota
	// Plain sends the query unchanged and in plain DNS to its original destination
	// ([Config.Nameserver]). It is neither cached nor coalesced. A nameserver that rejects
	// EDNS is asked again without OPT if the query has a cookie.
	Plain
	// Local is Plain to a local resolver ([Config.Local]): the query does not leave this
	// machine.
	Local
	// Refuse answers REFUSED.
	Refuse
	// NoData answers that the name has no record of that type.
	NoData
	// NXDomain answers that the name does not exist.
	NXDomain
	// Null answers with the unspecified addresses, 0.0.0.0 and ::, and that the name has
	// no record of another type.
	Null
	// Static answers with [Route.Records], and that the name has no record of another
	// type.
	Static
	// RefuseRemoved answers REFUSED, because rules depend on the workload, whose name
	// is no longer known ([Origin.Removed]).
	RefuseRemoved
	// NotReady answers SERVFAIL, because rules depend on the workload's pod, whose name or
	// labels are not known (yet).
	NotReady
)

var actionNames = [...]string{
	Forward: "forward", Plain: "plain", Local: "local", Refuse: "refuse", NoData: "nodata", NXDomain: "nxdomain",
	Null: "null", Static: "answer", RefuseRemoved: "refuse", NotReady: "not-ready",
}

// String returns the name of the action, as rules use it.
func (a Action) String() string { return actionNames[a] }

// Route is the decision of a [Router].
type Route struct {
	Action Action

	// Upstream receives the query. Nil means [Config.Upstream].
	Upstream Exchanger

	// Records are the answer of [Static].
	Records *records.Set

	// Scope separates the answers of one upstream from those of others: a cached
	// answer is used only in its own scope. It is a name that stays the same after a
	// restart, since the cache may be loaded from a file; at most 64 bytes.
	Scope string

	// Rule is the number of the rule that matched, from 1. 0 means that none matched;
	// then names with a special meaning (resolver.arpa) are answered directly.
	Rule int

	// Builtin is the name of that rule if it is not in the configuration.
	Builtin string
}

// rule returns what the rule is called in texts.
func (rt *Route) rule() string {
	if rt.Builtin != "" {
		return fmt.Sprintf("the built-in rule %q", rt.Builtin)
	}
	return fmt.Sprintf("rule %d", rt.Rule)
}

// Router decides what happens to a query. It is called once per query, concurrently.
// It must not block and must not keep its arguments.
type Router func(q *wire.Query, o *Origin) Route

// relays reports whether queries are sent unchanged to their original destination.
func (a Action) relays() bool { return a == Plain || a == Local }

// answers reports whether the rule itself has the answer.
func (a Action) answers() bool { return a == NXDomain || a == Null || a == Static }

// maxScope is the usual length limit of a scope. A longer one costs an allocation.
const maxScope = 64

// Nameserver sends queries in plain DNS to their original destination. Its errors may
// have a method EDE() wire.EDE.
type Nameserver interface {
	// Exchange sends a client's message with another ID, over TCP or UDP, and returns
	// the reply. The caller sets the reply's ID. owner identifies the client's workload:
	// queries of different owners do not share a socket.
	Exchange(ctx context.Context, to netip.AddrPort, owner uint64, query []byte, tcp bool, until time.Time) ([]byte, error)

	// Transfer requests a zone transfer over TCP and calls each for every message of
	// the reply, until the transfer is complete or each returns an error. until limits
	// the wait for the first message.
	Transfer(ctx context.Context, to netip.AddrPort, query []byte, until time.Time, each func(msg []byte) error) error
}

// SetRouter replaces the router, and forgets failures, whose upstream may be another one
// now. Queries in flight are answered as before; their answers are not cached.
func (f *Forwarder) SetRouter(r Router) {
	f.router.Store(&r)
	f.flights.failures.Clear()
}

// route calls the router.
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

// appendKey appends the key under which the answer to r is cached and coalesced.
func (r *request) appendKey(dst []byte) []byte {
	return append(wire.AppendKey(dst, &r.q), r.route.Scope...)
}
