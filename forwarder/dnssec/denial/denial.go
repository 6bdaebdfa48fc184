// SPDX-License-Identifier: Apache-2.0

package denial

import (
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// Result is what records prove about a name.
type Result uint8

const (
	// Nothing is proven.
	Nothing Result = iota
	// Proven: the denial is secure.
	Proven
	// Insecure: the name is in a span of unsigned delegations (opt-out, RFC 5155 §6), so that an
	// unsigned delegation may exist there.
	Insecure
	// TooManyIterations: the records were not examined because of their number of hash
	// iterations. The zone counts as insecure (RFC 9276 §3.2).
	TooManyIterations
	// Excessive: as TooManyIterations, with so many that the answer is refused.
	Excessive
	// TooMuchWork: the limit of hashes for one answer was reached.
	TooMuchWork
)

// Delegation is what records prove about a name at which a zone may start.
type Delegation uint8

const (
	// Unknown: nothing is proven.
	Unknown Delegation = iota
	// NotCut: the name is in the same zone as its parent, or does not exist.
	NotCut
	// Unsigned: the name is delegated, or may be, without a DS record.
	Unsigned
)

// Limits bound the work for one proof.
type Limits struct {
	// Iterations is the largest number of additional hash iterations that are computed.
	Iterations uint16
	// MaxIterations is the number above which answers are refused.
	MaxIterations uint16
	// Hashes is the number of names that are hashed for one [Proof].
	Hashes int
}

// DefaultLimits are those of unbound for iterations. The deepest names in use, reverse names of
// IPv6 addresses, have 34 labels, and a hash of each is needed at most.
var DefaultLimits = Limits{Iterations: 150, MaxIterations: 500, Hashes: 48}

// Proof is a set of verified NSEC or NSEC3 records of one zone. It is used by one goroutine.
type Proof struct {
	zone   record.Name
	nsec   []nsec
	nsec3  []nsec3
	params params
	limits Limits
	hashes map[record.Name][]byte
	failed Result // of nsec3
}

type nsec struct {
	owner record.Name
	record.NSEC
}

// New returns an empty proof for a zone.
func New(zone record.Name, limits Limits) *Proof { return &Proof{zone: zone, limits: limits} }

// Add adds a verified RRset of the type NSEC or NSEC3. Others, and records that do not parse, are
// ignored.
func (p *Proof) Add(s *record.Set) {
	for _, data := range s.Data {
		switch s.Type {
		case wire.TypeNSEC:
			if n, ok := record.ParseNSEC(data); ok && s.Owner.Within(p.zone) && n.Next.Within(p.zone) {
				p.nsec = append(p.nsec, nsec{s.Owner, n})
			}
		case wire.TypeNSEC3:
			p.addNSEC3(s.Owner, data)
		}
	}
}

// Empty reports whether there are no records.
func (p *Proof) Empty() bool { return len(p.nsec) == 0 && len(p.nsec3) == 0 && p.failed == Nothing }

// NameError returns whether the name does not exist, and no wildcard matches it.
func (p *Proof) NameError(name record.Name) Result {
	if !name.Within(p.zone) {
		return Nothing
	}
	if p.nsecNameError(name) {
		return Proven
	}
	return p.nsec3NameError(name)
}

// NoData returns whether the name, or the wildcard that matches it, has no records of the type.
func (p *Proof) NoData(name record.Name, typ uint16) Result {
	if !name.Within(p.zone) {
		return Nothing
	}
	if p.nsecNoData(name, typ) {
		return Proven
	}
	return p.nsec3NoData(name, typ)
}

// NoCloser returns whether no name exists that is closer to name than the wildcard below
// encloser, from which an answer was expanded.
func (p *Proof) NoCloser(name, encloser record.Name) Result {
	if !name.Below(encloser) || !encloser.Within(p.zone) {
		return Nothing
	}
	next := name.Suffix(encloser.Labels() + 1)
	for i := range p.nsec {
		if n := &p.nsec[i]; n.covers(name, p.zone) && !n.covered(name).Within(next) {
			return Proven
		}
	}
	return p.nsec3Covers(next)
}

// Delegation returns what is proven about a delegation at name, which is below the zone.
func (p *Proof) Delegation(name record.Name) (Delegation, Result) {
	if !name.Below(p.zone) {
		return Unknown, Nothing
	}
	for i := range p.nsec {
		n := &p.nsec[i]
		switch {
		case n.owner == name && !n.Types.Has(wire.TypeDS) && !n.Types.Has(wire.TypeSOA):
			return cutBy(n.Types), Proven
		case n.covers(name, p.zone):
			return NotCut, Proven
		}
	}
	return p.nsec3Delegation(name)
}

// cutBy returns whether a name with those types is delegated.
func cutBy(types record.Bitmap) Delegation {
	if types.Has(wire.TypeNS) {
		return Unsigned
	}
	return NotCut
}

// lacks reports whether the types of a record at the name itself, or at a wildcard, prove that
// there are no records of a type and no CNAME.
func lacks(types record.Bitmap, typ uint16, name record.Name) bool {
	switch {
	case typ == wire.TypeANY:
		return types.Only(wire.TypeRRSIG, wire.TypeNSEC)
	case types.Has(typ) || types.Has(wire.TypeCNAME):
		return false
	case typ == wire.TypeDS:
		// The record of the child zone says nothing about the parent's DS.
		return !types.Has(wire.TypeSOA) || name == record.Root
	}
	// The record of the parent zone says nothing about the child's other types.
	return !delegates(types)
}

// delegates reports whether the types are those of the parent's side of a delegation.
func delegates(types record.Bitmap) bool {
	return types.Has(wire.TypeNS) && !types.Has(wire.TypeSOA)
}
