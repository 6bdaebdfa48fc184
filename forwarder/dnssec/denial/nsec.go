// SPDX-License-Identifier: Apache-2.0

package denial

import (
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// covers reports whether no name exists between the record's owner and its next name, both
// exclusive, and name is there. Records above the name that delegate it, or redirect it by a
// DNAME, prove nothing (RFC 6840 §4.1, §4.4).
func (n *nsec) covers(name, zone record.Name) bool {
	if name.Below(n.owner) && (delegates(n.Types) || n.Types.Has(wire.TypeDNAME)) {
		return false
	}
	if record.Compare(n.owner, name) >= 0 {
		return false
	}
	return n.Next == zone || record.Compare(name, n.Next) < 0
}

// covered returns the closest encloser of a name that the record covers: the longest name that is
// shared with the owner or the next name, which both exist.
func (n *nsec) covered(name record.Name) record.Name {
	a, b := record.Common(name, n.owner), record.Common(name, n.Next)
	if len(b) > len(a) {
		return b
	}
	return a
}

// cover returns the record that covers name, or nil.
func (p *Proof) cover(name record.Name) *nsec {
	for i := range p.nsec {
		if p.nsec[i].covers(name, p.zone) {
			return &p.nsec[i]
		}
	}
	return nil
}

func (p *Proof) nsecNameError(name record.Name) bool {
	n := p.cover(name)
	if n == nil || n.Next.Below(name) { // an empty non-terminal exists
		return false
	}
	wild, ok := n.covered(name).Wildcard()
	if !ok {
		return true // the wildcard's name would be too long
	}
	w := p.cover(wild)
	return w != nil && !w.Next.Below(wild)
}

func (p *Proof) nsecNoData(name record.Name, typ uint16) bool {
	for i := range p.nsec {
		if n := &p.nsec[i]; n.owner == name {
			return lacks(n.Types, typ, name)
		}
	}
	n := p.cover(name)
	if n == nil {
		return false
	}
	if n.Next.Below(name) { // an empty non-terminal
		return true
	}
	wild, ok := n.covered(name).Wildcard()
	if !ok {
		return false
	}
	for i := range p.nsec {
		if w := &p.nsec[i]; w.owner == wild {
			return lacks(w.Types, typ, name)
		}
	}
	w := p.cover(wild)
	return w != nil && w.Next.Below(wild)
}
