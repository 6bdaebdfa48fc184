// SPDX-License-Identifier: Apache-2.0

package denial

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"strings"

	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// params are the parameters of a chain of NSEC3 records. All of an answer have to be of the same
// chain (RFC 5155 §8.2).
type params struct {
	iterations uint16
	salt       string
}

type nsec3 struct {
	owner []byte // hash
	record.NSEC3
}

// hashSHA1 is the only hash algorithm (RFC 5155 §11).
const hashSHA1 = 1

var base32hex = base32.HexEncoding.WithPadding(base32.NoPadding)

func (p *Proof) addNSEC3(owner record.Name, data []byte) {
	n, ok := record.ParseNSEC3(data)
	if !ok || n.Hash != hashSHA1 || len(n.Next) != sha1.Size || owner.Parent() != p.zone || owner == p.zone {
		return
	}
	hash, ok := OwnerHash(owner)
	if !ok {
		return
	}
	switch {
	case n.Iterations > p.limits.MaxIterations:
		p.failed = Excessive
		return
	case n.Iterations > p.limits.Iterations:
		p.failed = max(p.failed, TooManyIterations)
		return
	}
	these := params{n.Iterations, string(n.Salt)}
	if len(p.nsec3) == 0 {
		p.params = these
	}
	if these == p.params {
		p.nsec3 = append(p.nsec3, nsec3{hash, n})
	}
}

// OwnerHash returns the hash in the owner of an NSEC3 record.
func OwnerHash(owner record.Name) (hash []byte, ok bool) {
	if owner == record.Root {
		return nil, false
	}
	hash, err := base32hex.DecodeString(strings.ToUpper(string(owner[1 : 1+int(owner[0])])))
	return hash, err == nil && len(hash) == sha1.Size
}

// hash returns the hash of a name (RFC 5155 §5), or nil if there were too many.
func (p *Proof) hash(name record.Name) []byte {
	if h, ok := p.hashes[name]; ok {
		return h
	}
	if len(p.hashes) >= p.limits.Hashes {
		p.failed = TooMuchWork
		return nil
	}
	h := Hash(name, p.params.salt, p.params.iterations)
	if p.hashes == nil {
		p.hashes = make(map[record.Name][]byte)
	}
	p.hashes[name] = h
	return h
}

// Hash returns the hash of a name (RFC 5155 §5).
func Hash(name record.Name, salt string, iterations uint16) []byte {
	buf := make([]byte, 0, wire.MaxName+len(salt))
	sum := sha1.Sum(append(append(buf, name...), salt...))
	for range iterations {
		sum = sha1.Sum(append(append(buf[:0], sum[:]...), salt...))
	}
	return sum[:]
}

// Hashes returns how many names were hashed.
func (p *Proof) Hashes() int { return len(p.hashes) }

// match returns the record of the name, or nil.
func (p *Proof) match(name record.Name) *nsec3 {
	h := p.hash(name)
	for i := range p.nsec3 {
		if h != nil && bytes.Equal(p.nsec3[i].owner, h) {
			return &p.nsec3[i]
		}
	}
	return nil
}

// cover3 returns the record that covers the hash of the name, or nil.
func (p *Proof) cover3(name record.Name) *nsec3 {
	h := p.hash(name)
	for i := range p.nsec3 {
		n := &p.nsec3[i]
		after, before := bytes.Compare(n.owner, h) < 0, bytes.Compare(h, n.Next) < 0
		switch wraps := bytes.Compare(n.owner, n.Next) >= 0; {
		case h == nil:
		case !wraps && after && before, wraps && (after || before) && !bytes.Equal(n.owner, h):
			return n
		}
	}
	return nil
}

// encloser returns the closest encloser of a name that does not exist, and the record that covers
// the next closer name (RFC 5155 §8.3).
func (p *Proof) encloser(name record.Name) (encloser record.Name, cover *nsec3) {
	for next := name; next != p.zone && p.failed != TooMuchWork; next = next.Parent() {
		parent := next.Parent()
		m := p.match(parent)
		if m == nil {
			continue
		}
		if delegates(m.Types) || m.Types.Has(wire.TypeDNAME) {
			return "", nil
		}
		return parent, p.cover3(next)
	}
	return "", nil
}

// result returns r, or the reason why the records were not examined.
func (p *Proof) result(r Result) Result {
	if p.failed == Nothing || r != Nothing && p.failed == TooManyIterations {
		return r
	}
	return p.failed
}

func optOut(n *nsec3, r Result) Result {
	if n.OptOut {
		return Insecure
	}
	return r
}

func (p *Proof) nsec3NameError(name record.Name) Result {
	if len(p.nsec3) == 0 {
		return p.result(Nothing)
	}
	encloser, cover := p.encloser(name)
	if cover == nil {
		return p.result(Nothing)
	}
	if wild, ok := encloser.Wildcard(); ok && p.cover3(wild) == nil {
		return p.result(Nothing)
	}
	return p.result(optOut(cover, Proven))
}

func (p *Proof) nsec3NoData(name record.Name, typ uint16) Result {
	if len(p.nsec3) == 0 {
		return p.result(Nothing)
	}
	if m := p.match(name); m != nil {
		if lacks(m.Types, typ, name) {
			return p.result(Proven)
		}
		return p.result(Nothing)
	}
	encloser, cover := p.encloser(name)
	if cover == nil {
		return p.result(Nothing)
	}
	if wild, ok := encloser.Wildcard(); ok {
		if m := p.match(wild); m != nil && lacks(m.Types, typ, name) {
			return p.result(optOut(cover, Proven))
		}
	}
	// An empty non-terminal that exists only because of unsigned delegations has no record, and the
	// wildcard does not apply to it.
	return p.result(optOut(cover, Nothing))
}

func (p *Proof) nsec3Covers(next record.Name) Result {
	if len(p.nsec3) == 0 {
		return p.result(Nothing)
	}
	if cover := p.cover3(next); cover != nil {
		return p.result(optOut(cover, Proven))
	}
	return p.result(Nothing)
}

func (p *Proof) nsec3Delegation(name record.Name) (Delegation, Result) {
	if len(p.nsec3) == 0 {
		return Unknown, p.result(Nothing)
	}
	if m := p.match(name); m != nil {
		if m.Types.Has(wire.TypeDS) || m.Types.Has(wire.TypeSOA) {
			return Unknown, p.result(Nothing)
		}
		return cutBy(m.Types), p.result(Proven)
	}
	_, cover := p.encloser(name)
	switch {
	case cover == nil:
		return Unknown, p.result(Nothing)
	case cover.OptOut:
		return Unsigned, p.result(Proven)
	}
	return NotCut, p.result(Proven)
}
