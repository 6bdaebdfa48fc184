// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

// exchange sends a query over the transport. If the server rejects its OPT record, which
// is Sotto's own and not the client's, the query is sent again without (RFC 6891 §6.2.2).
// If that is answered, later queries have no OPT record for [Config.NoEDNSTime]. They then
// have no padding either, and their replies no signatures.
func (e *endpoint) exchange(ctx context.Context, query []byte, now int64, until time.Time, w transport.Waiter) ([]byte, error) {
	if e.avoidsEDNS(now) {
		if bare, ok := wire.AppendWithoutOPT(nil, query); ok {
			return e.transport.Exchange(ctx, bare, until, w)
		}
	}
	reply, err := e.transport.Exchange(ctx, query, until, w)
	if err != nil || !rejectsEDNS(reply) {
		return reply, err
	}
	bare, ok := wire.AppendWithoutOPT(nil, query)
	if !ok {
		return reply, nil
	}
	if reply, err = e.transport.Exchange(ctx, bare, until, w); err != nil {
		return nil, err
	}
	if !isRejection(wire.Rcode(reply)) {
		e.avoidEDNS()
	}
	return reply, nil
}

// rejectsEDNS reports whether a reply may mean that the server does not support EDNS.
// Some servers echo the OPT record together with FORMERR. NOTIMP with an OPT record
// concerns the question.
func rejectsEDNS(reply []byte) bool {
	rcode := wire.Rcode(reply)
	return isRejection(rcode) && (rcode != wire.RcodeNotImp || !wire.HasOPT(reply))
}

// isRejection reports whether a server that does not support EDNS sends rcode (RFC 6891
// §6.1.3 and §7).
func isRejection(rcode uint16) bool {
	return rcode == wire.RcodeFormErr || rcode == wire.RcodeNotImp || rcode == wire.RcodeBadVers
}

// avoidsEDNS reports whether queries are sent without OPT at that time, in ticks.
func (e *endpoint) avoidsEDNS(now int64) bool {
	until := e.noEDNSUntil.Load()
	return until != 0 && now < until
}

// avoidEDNS records that the server answers only without OPT. Queries that were in flight
// together record it once.
func (e *endpoint) avoidEDNS() {
	now := transport.Ticks(time.Now())
	before := e.noEDNSUntil.Load()
	if now < before || !e.noEDNSUntil.CompareAndSwap(before, now+int64(e.g.cfg.NoEDNSTime)) {
		return
	}
	e.g.log.Warn("upstream rejects EDNS: asking it without padding and DNSSEC", "server", e.server.String(), "for", e.g.cfg.NoEDNSTime)
}
