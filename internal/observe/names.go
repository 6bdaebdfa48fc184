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
	return append(names, FromGuard, FromHooks)
}

// RcodeNames returns the values of [Filter] Rcode that have a mnemonic, and [RcodeNone].
func RcodeNames() []string {
	var names []string
	for n := range uint16(maxRcode + 1) {
		if name := wire.RcodeName(n); !strings.HasPrefix(name, "RCODE") {
			names = append(names, name)
		}
	}
	return append(names, RcodeNone)
}

// TypeNames returns the values of [Filter] Type that have a mnemonic.
func TypeNames() []string { return wire.TypeNames() }

// Selects reports whether a text selects a workload, as the flag --workload does: a path selects
// the cgroup and all below it, any other text the workloads with that name, which may be without
// its kind.
func Selects(text, workload, name string) bool {
	if strings.HasPrefix(text, "/") {
		return isBelow(workload, text)
	}
	_, short, _ := strings.Cut(name, ":")
	return text != "" && (name == text || short == text)
}
