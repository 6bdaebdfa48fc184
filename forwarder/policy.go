// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"errors"

	"sotto/forwarder/wire"
)

// errBadCookie is for a query that asks whether its server cookie is valid, which it is not
// (RFC 7873 §5.4). An invalid one in any other query is replaced: a client may have it from
// the original destination, or from before a restart.
var errBadCookie = errors.New("the server cookie is not valid")

// policy reports whether a query is answered without cache and upstream, and how. err
// is the result of [wire.ParseQuery].
func (f *Forwarder) policy(r *request, err error) (rcode uint16, ede []wire.EDE, final bool) {
	switch {
	case errors.Is(err, wire.ErrCookieQuery):
		return wire.RcodeSuccess, nil, true
	case errors.Is(err, errBadCookie):
		return wire.RcodeBadCookie, nil, true
	case errors.Is(err, wire.ErrVersion):
		return wire.RcodeBadVers, nil, true
	case errors.Is(err, wire.ErrOpcode):
		return wire.RcodeNotImp, nil, true
	case err != nil:
		return wire.RcodeFormErr, nil, true
	}
	switch r.route.Action {
	case Refuse:
		return refuse(wire.EDEBlocked, "refused by "+r.route.rule())
	case RefuseRemoved:
		return refuse(wire.EDEProhibited, "rules depend on the workload, whose cgroup was removed: reconnect")
	case NotReady:
		return wire.RcodeServFail, []wire.EDE{{Code: wire.EDENotReady, Text: "rules depend on the pod, whose name or labels are not known yet"}}, true
	case NXDomain, Null, Static:
		if isLookup(&r.q) {
			return 0, nil, false // see appendLocal
		}
		return notLookup(r)
	case NoData:
		if !isLookup(&r.q) {
			return notLookup(r)
		}
		return wire.RcodeSuccess, []wire.EDE{{Code: wire.EDEBlocked, Text: "answered by " + r.route.rule()}}, true
	case Plain:
		if f.cfg.Nameserver == nil || !r.origin.Addr.IsValid() {
			return refuse(wire.EDEOther, r.route.rule()+" sends the query to its original destination, which is not known")
		}
		return 0, nil, false // every kind of query may go to its original destination
	case Local:
		if f.cfg.Local == nil {
			return refuse(wire.EDEOther, "the name is local, and local resolvers are not known here")
		}
		return 0, nil, false
	}
	return forwardable(&r.q, r.route.Rule > 0, f.cfg.Nameserver != nil)
}

// forwardable reports whether a query is answered because it cannot be sent to a
// recursive server behind TLS, and how. If a rule matched, names with a special meaning
// are forwarded like others. plain reports whether a rule could send the query to its
// original destination.
func forwardable(q *wire.Query, ruleMatched, plain bool) (rcode uint16, ede []wire.EDE, final bool) {
	switch {
	case q.Signed:
		return notSigned()
	case q.Opcode != wire.OpcodeQuery:
		// NOTIFY and UPDATE are for an authoritative server, never for a
		// recursive one behind TLS.
		return refuse(wire.EDENotSupported, hintOpcode.text(plain))
	case q.Type == wire.TypeAXFR || q.Type == wire.TypeIXFR:
		return refuse(wire.EDENotSupported, hintTransfer.text(plain))
	case !q.RD:
		// The client wants only what the original destination itself has stored,
		// which the upstream does not know (RFC 8914 §4.21).
		return refuse(wire.EDENotAuthoritative, hintRD.text(plain))
	case !ruleMatched && isBypassName(q.Name):
		return wire.RcodeSuccess, nil, true
	}
	return 0, nil, false
}

// notSigned is the reply to a signed query. The key is shared with the original destination.
// The client would drop an unsigned answer and wait for another one.
func notSigned() (rcode uint16, ede []wire.EDE, final bool) {
	return wire.RcodeNotAuth, []wire.EDE{{Code: wire.EDENotSupported, Text: "signed queries (TSIG) are not forwarded"}}, true
}

// hint is the reason of a refusal, and the reason with the rule that would allow the query.
type hint struct{ reason, fix string }

var (
	hintOpcode   = newHint("NOTIFY and UPDATE are not forwarded", `opcode = ["NOTIFY", "UPDATE"]`)
	hintTransfer = newHint("zone transfers are not forwarded", `type = ["AXFR", "IXFR"]`)
	hintRD       = newHint("queries without recursion desired are not forwarded", `rd = false`)
)

func newHint(reason, condition string) hint {
	return hint{reason, reason + ": allow them by a rule with " + condition + ` and use = "plain"`}
}

func (h *hint) text(plain bool) string {
	if plain {
		return h.fix
	}
	return h.reason
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
