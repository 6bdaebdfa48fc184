// SPDX-License-Identifier: Apache-2.0

package localnames

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sotto/forwarder/wire"
)

// Elements of a list that stand for more than one name.
const (
	// SingleLabels stands for all names of one label, except for queries that only the
	// servers of a top-level domain can answer.
	SingleLabels = "<single-labels>"

	// PrivateReverse stands for the reverse names of private, link-local and loopback
	// addresses.
	PrivateReverse = "<private-reverse>"

	// Resolved stands for the domains that systemd-resolved has for its links.
	Resolved = "<resolved>"
)

// Default returns the default list: after the constants the special-use names, the top-level
// domains that home and company networks use although they do not exist (RFC 6762 appendix G,
// and "localdomain"), and the domain of podman's containers.
func Default() []string {
	return []string{SingleLabels, PrivateReverse, Resolved, "localhost", "local", "home.arpa", "internal",
		"intranet", "private", "corp", "home", "lan", "localdomain", "dns.podman"}
}

// Set is a set of names with all names below them.
type Set struct {
	names    map[string]struct{} // wire form, lower-case
	tops     []string            // the last labels of names
	single   bool
	resolved bool
}

// New returns the set that a list describes. Each element is a domain, which includes all
// names below it, or one of the constants of this package.
func New(list []string) (*Set, error) {
	s := &Set{names: make(map[string]struct{})}
	for _, text := range list {
		switch text {
		case SingleLabels:
			s.single = true
		case PrivateReverse:
			for _, zone := range reverseZones() {
				if err := s.add(zone); err != nil {
					return nil, err
				}
			}
		case Resolved:
			s.resolved = true
		default:
			if strings.HasPrefix(text, "<") {
				return nil, fmt.Errorf("%q is unknown: want a domain, or one of %s, %s and %s", text, SingleLabels, PrivateReverse, Resolved)
			}
			if err := s.add(text); err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
		}
	}
	return s, nil
}

var errRoot = errors.New("it is the root, which contains every name: to leave all queries to local resolvers alone use local-resolvers = \"keep\"")

func (s *Set) add(text string) error {
	name, err := wire.AppendParsed(nil, text)
	if err != nil {
		return err
	}
	if len(name) < 2 {
		return errRoot
	}
	for i := range name {
		name[i] = wire.Lower(name[i])
	}
	s.names[string(name)] = struct{}{}
	last := 0
	for at := 0; name[at] != 0; at += 1 + int(name[at]) {
		last = at
	}
	if top := string(name[last : len(name)-1]); !slices.Contains(s.tops, top) {
		s.tops = append(s.tops, top)
	}
	return nil
}

// UsesResolved reports whether the list contains [Resolved]. A nil set contains nothing.
func (s *Set) UsesResolved() bool { return s != nil && s.resolved }

// With returns a set that also contains the domains. It ignores those that are not valid, and
// those of one label: such a domain may be announced by a network, and would include a whole
// top-level domain.
func (s *Set) With(domains []string) *Set {
	out := &Set{names: make(map[string]struct{}), tops: slices.Clone(s.tops), single: s.single, resolved: s.resolved}
	for name := range s.names {
		out.names[name] = struct{}{}
	}
	for _, d := range domains {
		if strings.Contains(strings.TrimSuffix(d, "."), ".") {
			_ = out.add(d)
		}
	}
	return out
}

// maxLabels is the number of labels of the longest name.
const maxLabels = wire.MaxName / 2

// Contains reports whether a query is for a name in the set. name is in wire form.
func (s *Set) Contains(name []byte, typ uint16) bool {
	var starts [maxLabels + 1]uint8
	n := 0
	for at := 0; ; n++ {
		if at >= len(name) || n > maxLabels {
			return false // not a complete name
		}
		length := int(name[at])
		if length == 0 {
			break
		}
		if length > 63 || at > 255 {
			return false
		}
		starts[n] = uint8(at)
		at += 1 + length
	}
	switch {
	case n == 0:
		return false
	case n == 1 && s.single && !isOfZone(typ):
		return true
	case !s.hasTop(name[starts[n-1] : len(name)-1]):
		return false
	}
	var lower [wire.MaxName + 1]byte
	length := copy(lower[:], name)
	for i := range lower[:length] {
		lower[i] = wire.Lower(lower[i])
	}
	for i := range n {
		if _, ok := s.names[string(lower[starts[i]:length])]; ok {
			return true
		}
	}
	return false
}

// hasTop reports whether a name of the set ends with a label, which has its length byte.
func (s *Set) hasTop(label []byte) bool {
	for _, top := range s.tops {
		if len(top) == len(label) && equalFold(top, label) {
			return true
		}
	}
	return false
}

func equalFold(lower string, b []byte) bool {
	for i := range b {
		if lower[i] != wire.Lower(b[i]) {
			return false
		}
	}
	return true
}

// isOfZone reports whether a record type belongs to a zone instead of a host. Validating and
// iterating resolvers query it for top-level domains.
func isOfZone(typ uint16) bool {
	switch typ {
	case wire.TypeNS, wire.TypeSOA, wire.TypeDS, wire.TypeDNSKEY, wire.TypeNSEC, wire.TypeNSEC3:
		return true
	}
	return false
}

// reverseZones returns the reverse zones of RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291
// §2.5.6 and loopback.
func reverseZones() []string {
	zones := []string{"10.in-addr.arpa", "168.192.in-addr.arpa", "254.169.in-addr.arpa", "127.in-addr.arpa",
		"c.f.ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa",
		"1." + strings.Repeat("0.", 31) + "ip6.arpa"}
	for i := 16; i < 32; i++ {
		zones = append(zones, strconv.Itoa(i)+".172.in-addr.arpa")
	}
	for i := 64; i < 128; i++ {
		zones = append(zones, strconv.Itoa(i)+".100.in-addr.arpa")
	}
	return zones
}
