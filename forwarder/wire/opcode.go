// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"strconv"
	"strings"
)

// opcodeNames are the mnemonics of the IANA registry; 3 is not assigned.
var opcodeNames = [...]string{
	OpcodeQuery: "QUERY", OpcodeIQuery: "IQUERY", OpcodeStatus: "STATUS",
	OpcodeNotify: "NOTIFY", OpcodeUpdate: "UPDATE", OpcodeDSO: "DSO",
}

// OpcodeName returns an opcode's mnemonic, or the form OPCODE3 if it has none.
func OpcodeName(op uint8) string {
	if int(op) < len(opcodeNames) && opcodeNames[op] != "" {
		return opcodeNames[op]
	}
	return "OPCODE" + strconv.Itoa(int(op))
}

// ParseOpcode parses a mnemonic in any case, OPCODE3, or a number up to 15.
func ParseOpcode(s string) (op uint8, ok bool) {
	s = strings.ToUpper(s)
	for i, name := range opcodeNames {
		if name != "" && s == name {
			return uint8(i), true
		}
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "OPCODE"), 10, 8)
	return uint8(n), err == nil && n <= opcodeMask
}

// HasQuestion reports whether messages with that opcode have the format of a query, with
// one question (in UPDATE: the zone, RFC 2136 §2.3). [ParseQuery] refuses all others.
func HasQuestion(op uint8) bool {
	return op == OpcodeQuery || op == OpcodeNotify || op == OpcodeUpdate
}
