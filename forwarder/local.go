// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"sotto/forwarder/records"
	"sotto/forwarder/wire"
)

var nullAddresses = records.Null()

// isLookup reports whether a query asks for the records of a name, which a rule can answer
// locally. A zone transfer, NOTIFY or UPDATE cannot be answered so: the client would take
// success for an answer of the zone's server. A signed query needs a signed answer.
func isLookup(q *wire.Query) bool {
	return q.Opcode == wire.OpcodeQuery && q.Type != wire.TypeAXFR && q.Type != wire.TypeIXFR && !q.Signed
}

// notLookup is the reply to another query that matches a rule with a local answer.
func notLookup(r *request) (rcode uint16, ede []wire.EDE, final bool) {
	if r.q.Signed {
		return notSigned()
	}
	return refuse(wire.EDEBlocked, "refused by "+r.route.rule())
}

// appendLocal appends the answer of a rule with the action NXDomain, Null or Static.
func (f *Forwarder) appendLocal(dst []byte, r *request) []byte {
	a := wire.Local{SOA: r.q.Class == wire.ClassIN}
	ede := wire.EDE{Code: wire.EDEBlocked}
	blocks := true
	switch r.route.Action {
	case NXDomain:
		a.Rcode = wire.RcodeNXDomain
	case Null:
		a.Records, a.Count = nullAddresses.Find(r.q.Name, r.q.Type, r.q.Class)
	case Static:
		blocks, ede.Code = false, wire.EDEForgedAnswer
		if r.route.Records != nil {
			a.Records, a.Count = r.route.Records.Find(r.q.Name, r.q.Type, r.q.Class)
		}
	}
	if a.Count > 0 {
		ede.Code = wire.EDEForgedAnswer // RFC 8914 §4.5
	}
	if r.q.EDNS {
		what := "answered"
		if blocks {
			what = "blocked"
		}
		ede.Text = what + " by " + r.route.rule()
	}
	dst = wire.AppendLocal(dst, &r.q, a, r.limit, ede)
	f.cfg.observe(r, a.Rcode, FromRule, nil)
	return dst
}
