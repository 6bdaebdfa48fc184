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

// matches reports whether reply has the ID, opcode and question of query. An error may
// lack the question, since the server may not have been able to parse it, and so may the
// reply to an UPDATE (RFC 2136 §3.8).
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

// isBare reports whether a message has no question, answers or authorities.
func isBare(msg []byte) bool {
	return binary.BigEndian.Uint32(msg[4:])|uint32(binary.BigEndian.Uint16(msg[8:])) == 0
}

// continues reports whether msg can be a message of a transfer. Those after the first
// need not have the question (RFC 5936 §2.2.1), and some servers omit it in the first.
func continues(query, msg []byte) bool {
	if matches(query, msg) {
		return true
	}
	return len(msg) >= wire.HeaderLen && msg[2]&bitQR != 0 && wire.ID(msg) == wire.ID(query) &&
		opcode(msg) == opcode(query) && binary.BigEndian.Uint16(msg[4:]) == 0
}
