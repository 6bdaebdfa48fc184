// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"sotto/forwarder/dnssec/denial"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// maxAliases is the number of CNAME and DNAME records that are followed, as in unbound.
const maxAliases = 12

// maxSigners is the number of zones that are tried for one RRset, or one denial.
const maxSigners = 2

// answer is the validation of one reply.
type answer struct {
	v     *Validator
	ctx   context.Context
	until time.Time
	m     *record.Message
	now   time.Time
	work  work

	zones  []*node // the signed zones that were used
	proofs []*zoneProof

	denied record.Name // the name whose absence, or absence of records, was proven by denier
	denier *zoneProof
	soa    *record.Set // of denier
}

// zoneProof is the denial records of one zone in the authority section.
type zoneProof struct {
	*denial.Proof
	zone *node
	sets []*record.Set // verified
	err  *Error        // of a set that is not valid
}

// validate verifies the reply, from the question through aliases, and returns whether it is secure.
// It is bogus if one step is, and otherwise insecure if one is: an alias in an unsigned zone says
// nothing about the zone that it names.
func (a *answer) validate() (secure bool, err error) {
	secure = true
	name := a.m.Name
	for range maxAliases + 1 { // the last step is for the name that is no alias
		target, ok, err := a.step(name)
		if err != nil {
			return false, err
		}
		secure = secure && ok
		if target == "" {
			if secure {
				a.rest()
			}
			return secure, nil
		}
		name = target
	}
	return false, bogus(wire.EDEBogus, a.m.Name, a.m.Type, "it has more than %d aliases", maxAliases)
}

// step verifies what the reply says about one name: its records, its alias, or that it has neither.
// It returns the target of an alias that the reply follows, or "".
func (a *answer) step(name record.Name) (target record.Name, secure bool, err error) {
	found, secure, err := a.records(name)
	if found || err != nil {
		if secure && a.m.Rcode != wire.RcodeSuccess {
			err = bogus(wire.EDEBogus, a.m.Name, a.m.Type, "the reply is NXDOMAIN, and has the records")
		}
		return "", secure, err
	}
	target, secure, err = a.alias(name)
	switch {
	case err != nil || target != "" && a.follows(target):
		return target, secure, err
	case target == "":
		secure, err = a.negative(name)
	}
	return "", secure, err
}

// records verifies the RRsets of a name that have the type of the question. The CNAME of a DNAME is
// not one of them: it is not signed (RFC 6672 §5.3.1), and alias compares it.
func (a *answer) records(name record.Name) (found, secure bool, err error) {
	if a.m.Type == wire.TypeANY {
		return a.any(name)
	}
	set := a.m.Find(record.Answer, name, a.m.Type)
	if set == nil || set.Type == wire.TypeCNAME && dnameAbove(a.m, name) != nil {
		return false, false, nil
	}
	secure, err = a.positive(set)
	return true, secure, err
}

// any verifies all RRsets of a name, for a question of type ANY.
func (a *answer) any(name record.Name) (found, secure bool, err error) {
	secure = true
	dname := dnameAbove(a.m, name)
	for _, s := range a.m.Sets {
		if s.Section != record.Answer || s.Owner != name || len(s.Data) == 0 || s.Type == wire.TypeCNAME && dname != nil {
			continue
		}
		found = true
		ok, err := a.positive(s)
		if err != nil {
			return true, false, err
		}
		secure = secure && ok
	}
	return found, secure, nil
}

// follows reports whether the reply follows an alias to its target. A CNAME answers questions of the
// types CNAME and ANY, but some servers follow that of a DNAME.
func (a *answer) follows(target record.Name) bool {
	if a.m.Type != wire.TypeCNAME && a.m.Type != wire.TypeANY || a.m.Rcode != wire.RcodeSuccess {
		return true
	}
	return slices.ContainsFunc(a.m.Sets, func(s *record.Set) bool {
		return s.Section == record.Answer && s.Owner == target && len(s.Data) > 0
	})
}

// alias verifies the DNAME or CNAME that applies to a name, and returns its target, or "" if there
// is none.
func (a *answer) alias(name record.Name) (target record.Name, secure bool, err error) {
	cname := a.m.Find(record.Answer, name, wire.TypeCNAME)
	if set := dnameAbove(a.m, name); set != nil {
		target, ok := substitute(name, set)
		if !ok || cname != nil && (len(cname.Data) != 1 || record.Name(cname.Data[0]) != target) {
			return "", false, bogus(wire.EDEBogus, set.Owner, wire.TypeDNAME, "the answer does not follow from it")
		}
		if cname != nil {
			cname.Reached, cname.Keep = true, true
			a.limit(cname, set.TTL)
		}
		secure, err = a.positive(set)
		return target, secure, err
	}
	if cname == nil {
		return "", false, nil
	}
	if len(cname.Data) != 1 {
		return "", false, bogus(wire.EDEBogus, name, wire.TypeCNAME, "there is more than one")
	}
	secure, err = a.positive(cname)
	return record.Name(cname.Data[0]), secure, err
}

// dnameAbove returns the RRset of a DNAME in the answer section whose owner is above name, or nil.
func dnameAbove(m *record.Message, name record.Name) *record.Set {
	for _, s := range m.Sets {
		if s.Section == record.Answer && s.Type == wire.TypeDNAME && len(s.Data) > 0 && name.Below(s.Owner) {
			return s
		}
	}
	return nil
}

// substitute returns what a DNAME makes of a name (RFC 6672 §2.2).
func substitute(name record.Name, dname *record.Set) (record.Name, bool) {
	prefix := name[:len(name)-len(dname.Owner)]
	target := record.Name(dname.Data[0])
	if len(dname.Data) != 1 || len(prefix)+len(target) > wire.MaxName {
		return "", false
	}
	return prefix + target, true
}

// positive verifies an RRset of the answer, and returns whether it is secure.
func (a *answer) positive(s *record.Set) (secure bool, err error) {
	s.Reached = true
	zone, sig, err := a.set(s)
	if err != nil || zone == nil {
		return false, err
	}
	s.Keep = true
	a.limit(s, lifetime(sig, a.now))
	encloser, expanded := s.Expanded(sig)
	if !expanded {
		return true, nil
	}
	if s.Type == wire.TypeDS {
		return false, bogus(wire.EDEBogus, s.Owner, s.Type, "it was expanded from a wildcard")
	}
	p := a.proof(zone)
	return a.judge(p, p.NoCloser(s.Owner, encloser), s.Owner, s.Type)
}

// judge returns whether a proof is secure, and an error if it fails.
func (a *answer) judge(p *zoneProof, r denial.Result, name record.Name, typ uint16) (secure bool, err error) {
	switch r {
	case denial.Proven:
		a.use(p)
		return true, nil
	case denial.Insecure, denial.TooManyIterations:
		return false, nil
	case denial.Excessive, denial.TooMuchWork:
		return false, refusal(r, name, typ)
	}
	if p.err != nil {
		return false, p.err
	}
	return false, bogus(wire.EDENSECMissing, name, typ, "no NSEC or NSEC3 record of %s proves the answer", p.zone.name)
}

// use keeps the records of a proof.
func (a *answer) use(p *zoneProof) {
	for _, s := range p.sets {
		s.Keep = true
	}
}

// signers calls each for the zones that may have signed records of a name, with the type, until it
// returns true.
func (a *answer) signers(name record.Name, typ uint16, sigs []record.RRSIG, each func(record.Name) bool) {
	base := zoneName(name, typ)
	anchor, ok := a.v.cfg.Anchors.Closest(base)
	if !ok {
		return
	}
	var seen [maxSigners]record.Name
	n := 0
next:
	for i := range sigs {
		signer := sigs[i].Signer
		if !base.Within(signer) || !signer.Within(anchor) {
			continue
		}
		for _, s := range seen[:n] {
			if s == signer {
				continue next
			}
		}
		if n == maxSigners || each(signer) {
			return
		}
		seen[n] = signer
		n++
	}
}

// zoneName returns the name that decides which zone has the records of a name: for DS records the
// parent's.
func zoneName(name record.Name, typ uint16) record.Name {
	if typ == wire.TypeDS {
		return name.Parent()
	}
	return name
}

// zone returns the node of the zone that name is in, and notes it if it is signed. signer is set if
// a signature names it as its zone.
func (a *answer) zone(name record.Name, signer bool) (*node, error) {
	n, err := a.v.zoneOf(a.ctx, name, signer, a.until)
	if err != nil {
		return nil, err
	}
	if n.kind == unsigned {
		return n, nil
	}
	for _, z := range a.zones {
		if z == n {
			return n, nil
		}
	}
	a.zones = append(a.zones, n)
	return n, nil
}

// set verifies an RRset. It returns the zone that signed it, or nil if it is insecure.
func (a *answer) set(s *record.Set) (zone *node, sig *record.RRSIG, err error) {
	var invalid *Error
	insecure := false
	a.signers(s.Owner, s.Type, s.Sigs, func(signer record.Name) bool {
		var n *node
		if n, err = a.zone(signer, true); err != nil || n.kind == unsigned {
			insecure = err == nil
			return true
		}
		if n.name != signer {
			invalid = bogus(wire.EDEBogus, s.Owner, s.Type, "its signer %s is not a zone", signer)
			return false
		}
		var e *Error
		if sig, e = a.v.verify(s, signer, n.keys, &a.work, a.now); e != nil {
			invalid = e
			return false
		}
		zone = n
		return true
	})
	if zone != nil || err != nil || insecure {
		return zone, sig, err
	}
	if n, err := a.zone(zoneName(s.Owner, s.Type), false); err != nil || n.kind == unsigned {
		return nil, nil, err
	}
	if invalid == nil {
		invalid = bogus(wire.EDERRSIGsMissing, s.Owner, s.Type, "it has no signature, and its zone is signed")
	}
	return nil, nil, invalid
}

// proof returns the denial records that a zone signed.
func (a *answer) proof(zone *node) *zoneProof {
	for _, p := range a.proofs {
		if p.zone == zone {
			return p
		}
	}
	p := &zoneProof{Proof: newProof(zone.name), zone: zone}
	a.proofs = append(a.proofs, p)
	for _, s := range a.m.Sets {
		if !isDenial(s) || !s.Owner.Within(zone.name) {
			continue
		}
		sig, err := a.v.verify(s, zone.name, zone.keys, &a.work, a.now)
		if err != nil {
			p.err = err
			continue
		}
		a.limit(s, lifetime(sig, a.now))
		p.sets = append(p.sets, s)
		p.Add(s)
	}
	return p
}

func isDenial(s *record.Set) bool {
	return s.Section == record.Authority && (s.Type == wire.TypeNSEC || s.Type == wire.TypeNSEC3) && len(s.Data) > 0
}

// limit limits the TTL of an RRset and its signatures.
func (a *answer) limit(s *record.Set, ttl uint32) {
	if s.TTL <= ttl && len(s.Sigs) == 0 {
		return
	}
	for _, rr := range a.m.Records {
		if rr.Set == s && binary.BigEndian.Uint32(a.m.Raw[rr.TTL:]) > ttl {
			binary.BigEndian.PutUint32(a.m.Raw[rr.TTL:], ttl)
		}
	}
	s.TTL = min(s.TTL, ttl)
}
