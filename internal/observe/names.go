// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"strings"

	"sotto/forwarder"
	"sotto/forwarder/wire"
)

// SourceNames returns the values of [Filter] Source.
func SourceNames() []string {
	var names []string
	for s := range forwarder.Sources {
		names = append(names, s.String())
	}
	return names
}

// RcodeNames returns the values of [Filter] Rcode that have a mnemonic.
func RcodeNames() []string {
	var names []string
	for n := range uint16(maxRcode + 1) {
		if name := wire.RcodeName(n); !strings.HasPrefix(name, "RCODE") {
			names = append(names, name)
		}
	}
	return names
}

// TypeNames returns the values of [Filter] Type that have a mnemonic.
func TypeNames() []string { return wire.TypeNames() }
