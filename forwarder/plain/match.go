// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"encoding/binary"

	"sotto/forwarder/wire"
)

// Bits of the header's third byte (RFC 1035 §4.1.1).
const (
	bitQR      = 0x80
	opcodeMask = 0x78
)

func opcode(msg []byte) uint8 { return msg[2] & opcodeMask >> 3 }

// matches reports whether reply is one to query: ID, opcode and question. A reply
// may leave the question out where it is an error, since the server may not have
// been able to read it, or to an UPDATE (RFC 2136 §3.8).
func matches(query, reply []byte) bool {
	if len(reply) < wire.HeaderLen || reply[2]&bitQR == 0 ||
		wire.ID(reply) != wire.ID(query) || opcode(reply) != opcode(query) {
		return false
	}
	if wire.SameQuestion(query, reply) {
		return true
	}
	return isBare(reply) && (opcode(query) == wire.OpcodeUpdate || wire.Rcode(reply) != wire.RcodeSuccess)
}

// isBare reports whether a message has neither a question, nor answers, nor
// authorities.
func isBare(msg []byte) bool {
	return binary.BigEndian.Uint32(msg[4:])|uint32(binary.BigEndian.Uint16(msg[8:])) == 0
}

// continues reports whether msg is one more message of a transfer: those after the
// first need not have the question (RFC 5936 §2.2.1), and some servers leave it out
// of the first.
func continues(query, msg []byte) bool {
	if matches(query, msg) {
		return true
	}
	return len(msg) >= wire.HeaderLen && msg[2]&bitQR != 0 && wire.ID(msg) == wire.ID(query) &&
		opcode(msg) == opcode(query) && binary.BigEndian.Uint16(msg[4:]) == 0
}
