// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"errors"
	"fmt"

	"sotto/forwarder/wire"
)

// policy reports whether a query is answered without cache and upstream, and how. err
// is the result of [wire.ParseQuery].
func (f *Forwarder) policy(r *request, err error) (rcode uint16, ede []wire.EDE, final bool) {
	switch {
	case errors.Is(err, wire.ErrVersion):
		return wire.RcodeBadVers, nil, true
	case errors.Is(err, wire.ErrOpcode):
		return wire.RcodeNotImp, nil, true
	case err != nil:
		return wire.RcodeFormErr, nil, true
	}
	switch r.route.Action {
	case Refuse:
		return refuse(wire.EDEBlocked, fmt.Sprintf("refused by rule %d", r.route.Rule))
	case RefuseRemoved:
		return refuse(wire.EDEProhibited, "rules depend on the workload, whose cgroup was removed: reconnect")
	case NoData:
		return wire.RcodeSuccess, []wire.EDE{{Code: wire.EDEBlocked, Text: fmt.Sprintf("answered by rule %d", r.route.Rule)}}, true
	case Plain:
		if f.cfg.Nameserver == nil || !r.origin.Addr.IsValid() {
			return refuse(wire.EDEOther, fmt.Sprintf("rule %d sends the query to its original destination, which is not known", r.route.Rule))
		}
		return 0, nil, false // every kind of query may go to its original destination
	case Local:
		if f.cfg.Local == nil {
			return refuse(wire.EDEOther, "the name is local, and local resolvers are not known here")
		}
		return 0, nil, false
	}
	return forwardable(&r.q, r.route.Rule > 0)
}

// forwardable reports whether a query is answered because it cannot be sent to a
// recursive server behind TLS, and how. If a rule matched, names with a special meaning
// are forwarded like others.
func forwardable(q *wire.Query, ruleMatched bool) (rcode uint16, ede []wire.EDE, final bool) {
	switch {
	case q.Signed:
		// The key is shared with the original destination. The client would drop an
		// unsigned answer and wait for another one.
		return wire.RcodeNotAuth, []wire.EDE{{Code: wire.EDENotSupported, Text: "signed queries (TSIG) are not forwarded"}}, true
	case q.Opcode != wire.OpcodeQuery:
		// NOTIFY and UPDATE are for an authoritative server, never for a
		// recursive one behind TLS.
		return refuse(wire.EDENotSupported, "NOTIFY and UPDATE are not forwarded")
	case q.Type == wire.TypeAXFR || q.Type == wire.TypeIXFR:
		return refuse(wire.EDENotSupported, "zone transfers are not forwarded")
	case !q.RD:
		// The client wants only what the original destination itself has stored,
		// which the upstream does not know (RFC 8914 §4.21).
		return refuse(wire.EDENotAuthoritative, "queries without recursion desired are not forwarded")
	case !ruleMatched && isBypassName(q.Name):
		return wire.RcodeSuccess, nil, true
	}
	return 0, nil, false
}

func refuse(code uint16, text string) (uint16, []wire.EDE, bool) {
	return wire.RcodeRefused, []wire.EDE{{Code: code, Text: text}}, true
}

// answersAnything reports whether a UDP port is that of a service that answers every
// packet: echo, daytime, quote of the day, character generator, time or kpasswd. Their
// packets can look like a query, so a reply to a single forged one could start an
// endless exchange. No client uses these ports, nor port 0, which cannot be replied to.
func answersAnything(port uint16) bool {
	switch port {
	case 0, 7, 13, 17, 19, 37, 464:
		return true
	}
	return false
}

var (
	resolverArpa = []byte("\x08resolver\x04arpa\x00")
	canary       = []byte("\x13use-application-dns\x03net\x00")
)

// isBypassName reports whether clients use the wire name to find a resolver that
// bypasses the seal. They are answered with NODATA, which means that there is none: for
// resolver.arpa, the discovery of designated resolvers (RFC 9462 §4), and for
// use-application-dns.net, with which browsers check whether they may use their own DNS
// over HTTPS (https://support.mozilla.org/kb/canary-domain-use-application-dnsnet).
func isBypassName(name []byte) bool {
	return isWithin(name, resolverArpa) || isWithin(name, canary)
}

// isWithin reports whether the wire name is zone, which is lower-case, or below it.
func isWithin(name, zone []byte) bool {
	cut := len(name) - len(zone)
	if cut < 0 || !bytes.EqualFold(name[cut:], zone) {
		return false
	}
	// The suffix must start at a label, not inside one.
	at := 0
	for at < cut {
		at += 1 + int(name[at])
	}
	return at == cut
}
