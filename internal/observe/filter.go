// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sotto/forwarder/wire"
)

// lastRcode is the highest rcode that a message can have: 12 bits with EDNS (RFC 6891 §6.1.3).
const lastRcode = 0xFFF

// Normalize writes Name, Type, Rcode and Source as they are in records. It returns an error if one
// of them selects no query.
func (f *Filter) Normalize() error {
	if f.Name != "" {
		name, err := wire.AppendParsed(nil, f.Name)
		if err != nil {
			return fmt.Errorf("name %q: %w", f.Name, err)
		}
		f.Name = wire.Name(name)
	}
	if f.Type != "" {
		typ, ok := wire.ParseType(f.Type)
		if !ok {
			return fmt.Errorf("unknown type %q: want a mnemonic such as AAAA, or TYPE65280", f.Type)
		}
		f.Type = wire.TypeName(typ)
	}
	if f.Rcode != "" {
		rcode, ok := parseRcode(f.Rcode)
		if !ok {
			return fmt.Errorf("unknown rcode %q: want %s, or a number such as RCODE24", f.Rcode, strings.Join(RcodeNames(), ", "))
		}
		f.Rcode = rcode
	}
	if f.Source != "" {
		i := slices.IndexFunc(SourceNames(), func(name string) bool { return strings.EqualFold(name, f.Source) })
		if i < 0 {
			return fmt.Errorf("unknown source %q: want one of %s", f.Source, strings.Join(SourceNames(), ", "))
		}
		f.Source = SourceNames()[i]
	}
	return nil
}

// parseRcode returns the mnemonic of an rcode in any case, or of the form RCODE2, or RcodeNone.
func parseRcode(text string) (name string, ok bool) {
	names := RcodeNames()
	if i := slices.IndexFunc(names, func(name string) bool { return strings.EqualFold(name, text) }); i >= 0 {
		return names[i], true
	}
	digits, ok := strings.CutPrefix(strings.ToUpper(text), "RCODE")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || n > lastRcode {
		return "", false
	}
	return wire.RcodeName(uint16(n)), true
}
