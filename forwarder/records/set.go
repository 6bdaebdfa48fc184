// SPDX-License-Identifier: Apache-2.0

package records

import (
	"fmt"
	"net/netip"
	"slices"

	"sotto/forwarder/wire"
)

// MaxAddresses limits the addresses of one name: all of them fit a message over TCP, with
// the longest question.
const MaxAddresses = 1000

// Lengths of records with a compressed owner.
const (
	fixedLen = 12
	aLen     = fixedLen + 4
	aaaaLen  = fixedLen + 16
)

// entry has the records of a name: A, AAAA, PTR.
type entry struct {
	records      []byte
	a, aaaa, ptr uint16 // number of records
}

// Set has the records that a rule answers with.
type Set struct {
	every *entry            // for every name, unless nil
	names map[string]*entry // by lower-case wire name
}

// Addresses returns a Set with these addresses for every name, in this order. It fails if
// there are too many, or if one is not valid or has a zone.
func Addresses(addrs []netip.Addr) (*Set, error) {
	for _, a := range addrs {
		if err := check(a); err != nil {
			return nil, err
		}
	}
	e := newEntry(addrs)
	if int(e.a)+int(e.aaaa) > MaxAddresses {
		return nil, fmt.Errorf("%d addresses: want at most %d", e.a+e.aaaa, MaxAddresses)
	}
	return &Set{every: e}, nil
}

// Null returns a Set with the unspecified addresses, 0.0.0.0 and ::, for every name. A
// connection to one never leaves the machine.
func Null() *Set {
	return &Set{every: newEntry([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()})}
}

func check(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return fmt.Errorf("an address is missing: want one such as 192.0.2.1 or 2001:db8::1")
	case a.Zone() != "":
		return fmt.Errorf("%s has a zone, which no record can contain: remove %%%s", a, a.Zone())
	}
	return nil
}

// newEntry returns an entry with addresses, each once.
func newEntry(addrs []netip.Addr) *entry {
	e := new(entry)
	for i, a := range addrs {
		if a.Is4() && !slices.Contains(addrs[:i], a) {
			e.records = wire.AppendRecord(e.records, wire.TypeA, a.AsSlice())
			e.a++
		}
	}
	for i, a := range addrs {
		if a.Is6() && !slices.Contains(addrs[:i], a) {
			e.records = wire.AppendRecord(e.records, wire.TypeAAAA, a.AsSlice())
			e.aaaa++
		}
	}
	return e
}

// Find returns the records of a name and a type in the form of [wire.Local], and their
// number, which is 0 if the name has none of that type. Type ANY returns all.
func (s *Set) Find(name []byte, typ, class uint16) (records []byte, count uint16) {
	e := s.every
	if e == nil {
		var room [wire.MaxName]byte
		e = s.names[string(lower(room[:0], name))]
	}
	if e == nil || class != wire.ClassIN && class != wire.ClassANY {
		return nil, 0
	}
	endA := int(e.a) * aLen
	endAAAA := endA + int(e.aaaa)*aaaaLen
	switch typ {
	case wire.TypeA:
		return e.records[:endA], e.a
	case wire.TypeAAAA:
		return e.records[endA:endAAAA], e.aaaa
	case wire.TypePTR:
		return e.records[endAAAA:], e.ptr
	case wire.TypeANY:
		return e.records, e.a + e.aaaa + e.ptr
	}
	return nil, 0
}

// lower appends the lower-case form of a wire name.
func lower(dst, name []byte) []byte {
	for _, c := range name {
		dst = append(dst, wire.Lower(c))
	}
	return dst
}
