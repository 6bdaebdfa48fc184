// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"errors"

	"sotto/forwarder/wire"
)

// policy tells whether a query is answered here without asking anybody, and
// how. err is what [wire.ParseQuery] said of it.
func policy(q *wire.Query, err error) (rcode uint16, ede []wire.EDE, final bool) {
	switch {
	case errors.Is(err, wire.ErrVersion):
		return wire.RcodeBadVers, nil, true
	case errors.Is(err, wire.ErrOpcode):
		return wire.RcodeNotImp, nil, true
	case err != nil:
		return wire.RcodeFormErr, nil, true
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
	case isResolverArpa(q.Name):
		// Discovery of designated resolvers (RFC 9462) would lead clients
		// around the seal: there is none (§4: NODATA).
		return wire.RcodeSuccess, nil, true
	}
	return 0, nil, false
}

func refuse(code uint16, text string) (uint16, []wire.EDE, bool) {
	return wire.RcodeRefused, []wire.EDE{{Code: code, Text: text}}, true
}

var resolverArpa = []byte("\x08resolver\x04arpa\x00")

// isResolverArpa reports whether the wire name is resolver.arpa. or below it.
func isResolverArpa(name []byte) bool {
	cut := len(name) - len(resolverArpa)
	if cut < 0 || !bytes.EqualFold(name[cut:], resolverArpa) {
		return false
	}
	// The suffix must begin at a label, not inside one.
	at := 0
	for at < cut {
		at += 1 + int(name[at])
	}
	return at == cut
}
