// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"fmt"

	"sotto/forwarder/wire"
)

// AcceptReply returns the reply to a query from a stream that carries nothing else, with
// the question if the server omitted it, and with ID 0. It modifies reply.
func AcceptReply(query, reply []byte) ([]byte, error) {
	if err := CheckReply(reply); err != nil {
		return nil, err
	}
	if !Matches(query, reply) {
		return nil, ErrMismatch
	}
	if IsBare(reply) {
		if !IsBareError(reply) {
			return nil, ErrUnusable
		}
		reply = WithQuestion(query, reply)
	}
	wire.SetID(reply, 0)
	return reply, nil
}

// CheckReply returns an error if a message cannot be a reply at all (RFC 1035 §4.1.1): it
// needs QR set and opcode QUERY. A DNS server does not get that wrong by accident.
func CheckReply(msg []byte) error {
	const qr, opcode = 0x80, 0x78
	if len(msg) < wire.HeaderLen {
		return fmt.Errorf("%w: it has %d bytes", ErrMalformed, len(msg))
	}
	if msg[2]&(qr|opcode) != qr {
		return fmt.Errorf("%w: it starts with %q", ErrMalformed, msg[:wire.HeaderLen])
	}
	return nil
}

// Matches reports whether reply, which has the right ID, belongs to query. Servers that
// cannot or will not read a query may omit the question.
func Matches(query, reply []byte) bool {
	return wire.SameQuestion(query, reply) || IsBare(reply)
}

// IsBare reports whether reply has no question, and no records other than OPT.
func IsBare(reply []byte) bool { return isZero(reply[4:10]) }

// IsBareError reports whether a bare reply is one of the errors that servers send without
// the question, because they cannot or will not read it. Any other rcode says something
// about a name, and which one is not known (RFC 5452 §9.1).
func IsBareError(reply []byte) bool {
	switch wire.Rcode(reply) {
	case wire.RcodeFormErr, wire.RcodeServFail, wire.RcodeNotImp, wire.RcodeRefused, wire.RcodeBadVers:
		return true
	}
	return false
}

// WithQuestion adds the question of the query to a bare reply and removes its OPT record.
// Only the lower bits of an extended rcode would be left: BADVERS becomes FORMERR, with which
// older servers reject EDNS.
func WithQuestion(query, reply []byte) []byte {
	end := wire.HeaderLen
	for end < len(query) && query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5 // root, type, class
	if end > len(query) {
		return reply
	}
	rcode := wire.Rcode(reply)
	out := append(reply[:wire.HeaderLen:wire.HeaderLen], query[wire.HeaderLen:end]...)
	copy(out[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0}) // one question, no records
	if rcode == wire.RcodeBadVers {
		out[3] = out[3]&0xF0 | byte(wire.RcodeFormErr)
	}
	return out
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
