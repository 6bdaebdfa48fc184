// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"errors"
	"fmt"

	"sotto/forwarder/wire"
)

// policy tells whether a query is answered here without asking anybody, and
// how. err is what [wire.ParseQuery] said of it.
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
		return refuse(wire.EDEProhibited, "rules depend on the workload, whose cgroup was removed: connect again")
	case NoData:
		return wire.RcodeSuccess, []wire.EDE{{Code: wire.EDEBlocked, Text: fmt.Sprintf("answered by rule %d", r.route.Rule)}}, true
	case Plain:
		if f.cfg.Nameserver == nil || !r.origin.Addr.IsValid() {
			return refuse(wire.EDEOther, fmt.Sprintf("rule %d sends it to the nameserver that was meant, which is not known here", r.route.Rule))
		}
		return 0, nil, false // whatever it is, it goes to the very server that it is for
	}
	return forwardable(&r.q, r.route.Rule > 0)
}

// forwardable tells how to answer what no recursive server behind TLS can be
// asked. ruled: a rule says to forward it, so that its name has no special meaning.
func forwardable(q *wire.Query, ruled bool) (rcode uint16, ede []wire.EDE, final bool) {
	switch {
	case q.Signed:
		// The key is for the nameserver that was meant. An unsigned answer would
		// be dropped by its client, which would then wait for a better one.
		return wire.RcodeNotAuth, []wire.EDE{{Code: wire.EDENotSupported, Text: "signed queries (TSIG) are not forwarded"}}, true
	case q.Opcode != wire.OpcodeQuery:
		// NOTIFY and UPDATE are for an authoritative server, never for a
		// recursive one behind TLS.
		return refuse(wire.EDENotSupported, "NOTIFY and UPDATE are not forwarded")
	case q.Type == wire.TypeAXFR || q.Type == wire.TypeIXFR:
		return refuse(wire.EDENotSupported, "zone transfers are not forwarded")
	case !q.RD:
		// A question for what the nameserver itself holds: the upstream that
		// would answer is not the one that was meant (RFC 8914 §4.21).
		return refuse(wire.EDENotAuthoritative, "queries without recursion desired are not forwarded")
	case !ruled && leadsAround(q.Name):
		return wire.RcodeSuccess, nil, true
	}
	return 0, nil, false
}

func refuse(code uint16, text string) (uint16, []wire.EDE, bool) {
	return wire.RcodeRefused, []wire.EDE{{Code: code, Text: text}}, true
}

// answersAnything reports whether at that UDP port there is nobody, or a service that
// answers whatever it gets: echo, daytime, quote of the day, character generator, time
// and kpasswd. What these send can look like a query; with a reply to it, a single
// forged one would have the two of us talk for ever. No client asks from there.
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

// leadsAround reports whether the wire name is one by which clients find a way
// around the seal. NODATA tells them that there is none: for resolver.arpa, the
// discovery of designated resolvers, by RFC 9462 §4; for use-application-dns.net,
// by which browsers ask whether their own DNS over HTTPS is welcome, by Mozilla's
// convention (https://support.mozilla.org/kb/canary-domain-use-application-dnsnet).
func leadsAround(name []byte) bool {
	return isWithin(name, resolverArpa) || isWithin(name, canary)
}

// isWithin reports whether the wire name is zone, which is lower-case, or below it.
func isWithin(name, zone []byte) bool {
	cut := len(name) - len(zone)
	if cut < 0 || !bytes.EqualFold(name[cut:], zone) {
		return false
	}
	// The suffix must begin at a label, not inside one.
	at := 0
	for at < cut {
		at += 1 + int(name[at])
	}
	return at == cut
}
