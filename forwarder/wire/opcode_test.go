// SPDX-License-Identifier: Apache-2.0

package wire

import "testing"

func TestOpcodes(t *testing.T) {
	for op := range uint8(16) {
		for _, s := range []string{OpcodeName(op)} {
			if got, ok := ParseOpcode(s); !ok || got != op {
				t.Errorf("%q: %d, %t: want %d", s, got, ok, op)
			}
		}
	}
	for s, want := range map[string]uint8{"update": OpcodeUpdate, "0": 0, "15": 15, "opcode4": OpcodeNotify} {
		if got, ok := ParseOpcode(s); !ok || got != want {
			t.Errorf("%q: %d, %t: want %d", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "16", "-1", "QUERIES", "OPCODE", "OPCODE256"} {
		if got, ok := ParseOpcode(s); ok {
			t.Errorf("%q: %d", s, got)
		}
	}
}
