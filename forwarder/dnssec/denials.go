// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"sotto/forwarder/dnssec/bounded"
	"sotto/forwarder/dnssec/denial"
	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

const (
	// denialZones is half of the largest number of zones whose denials are kept.
	denialZones = 64
	// maxDenials is the number of records kept for one zone. Together with their signatures they
	// take half a kilobyte each: 8 MB in all.
	maxDenials = 128
	// maxDenialTTL limits how long a new name stays denied, as the default of max-negative-ttl.
	maxDenialTTL = 3600
)

// denials keeps verified NSEC and NSEC3 records, to answer for other names that they deny
// (RFC 8198).
type denials struct {
	zones *bounded.Map[record.Name, *deniedZone]
}

// deniedZone has the records of one zone. Records with opt-out are not kept: they deny nothing for
// certain.
type deniedZone struct {
	mu    sync.Mutex
	soa   *stored
	nsec  []*stored // by owner, in canonical order
	nsec3 []*stored // by hash

	salt       string // of nsec3
	iterations uint16
}

// stored is an RRset with its signatures, as it is written into answers.
type stored struct {
	learned
	set     *record.Set // owner, type and data
	hash    []byte      // of the owner, for NSEC3
	records []byte      // uncompressed
	sigs    []byte
	counts  [2]uint16 // of both
	ttls    [2][]int  // offsets in both
}

// fresh reports whether it is used at now. The last tenth of its TTL is left out, so that it is
// renewed in time.
func (e *stored) fresh(now time.Time) bool { return e.left(now) > e.ttl/10 }

func newDenials() *denials {
	return &denials{zones: bounded.New[record.Name, *deniedZone](denialZones)}
}

// learn keeps the records by which a secure answer denied something.
func (d *denials) learn(a *answer) {
	if a.denier == nil || a.soa == nil {
		return
	}
	ttl := min(a.soa.TTL, maxDenialTTL, binary.BigEndian.Uint32(a.soa.Data[0][len(a.soa.Data[0])-4:]))
	for _, s := range a.denier.sets {
		ttl = min(ttl, s.TTL)
	}
	if ttl == 0 {
		return
	}
	zone := a.denier.zone.name
	z, ok := d.zones.Get(zone)
	if !ok {
		z = &deniedZone{}
		d.zones.Put(zone, z)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.soa = store(a, a.soa, ttl)
	for _, s := range a.denier.sets {
		z.add(a, s, ttl)
	}
}

// add keeps one RRset.
func (z *deniedZone) add(a *answer, s *record.Set, ttl uint32) {
	if len(s.Data) != 1 {
		return
	}
	if s.Type == wire.TypeNSEC {
		z.nsec = insert(z.nsec, store(a, s, ttl), func(x, y *stored) int { return record.Compare(x.set.Owner, y.set.Owner) })
		return
	}
	n, ok := record.ParseNSEC3(s.Data[0])
	hash, valid := denial.OwnerHash(s.Owner)
	if !ok || !valid || n.OptOut || n.Iterations > denial.DefaultLimits.Iterations {
		return
	}
	if z.salt != string(n.Salt) || z.iterations != n.Iterations {
		z.nsec3, z.salt, z.iterations = nil, string(n.Salt), n.Iterations
	}
	e := store(a, s, ttl)
	e.hash = hash
	z.nsec3 = insert(z.nsec3, e, func(x, y *stored) int { return bytes.Compare(x.hash, y.hash) })
}

// insert adds e to a sorted list, or replaces the entry with the same key. A full list is emptied.
func insert(list []*stored, e *stored, compare func(x, y *stored) int) []*stored {
	i, found := slices.BinarySearchFunc(list, e, compare)
	switch {
	case found:
		list[i] = e
		return list
	case len(list) >= maxDenials:
		return []*stored{e}
	}
	return slices.Insert(list, i, e)
}

// store copies an RRset from an answer.
func store(a *answer, s *record.Set, ttl uint32) *stored {
	e := &stored{
		learned: learned{a.now, time.Duration(ttl) * time.Second},
		set:     &record.Set{Owner: s.Owner, Type: s.Type, Class: s.Class},
	}
	for _, data := range s.Data {
		e.set.Data = append(e.set.Data, bytes.Clone(data))
	}
	for i := range a.m.Records {
		rr := &a.m.Records[i]
		if rr.Set != s {
			continue
		}
		to, n := &e.records, 0
		if rr.Type == wire.TypeRRSIG {
			to, n = &e.sigs, 1
		}
		at := 0
		*to, at = record.AppendRecord(*to, a.m, rr)
		e.ttls[n] = append(e.ttls[n], at)
		e.counts[n]++
	}
	return e
}

// append appends the RRset to a message, with its signatures if sigs is set, and counts them.
func (e *stored) append(dst []byte, ttl uint32, sigs bool, count *uint16) []byte {
	for n, part := range [2][]byte{e.records, e.sigs} {
		if n == 1 && !sigs {
			break
		}
		start := len(dst)
		dst = append(dst, part...)
		for _, at := range e.ttls[n] {
			binary.BigEndian.PutUint32(dst[start+at:], ttl)
		}
		*count += e.counts[n]
	}
	return dst
}

// fromDenials returns the answer to a query if records that are known prove that its name does not
// exist, or has no records of its type; otherwise nil.
func (v *Validator) fromDenials(query []byte) []byte {
	q, err := wire.ParseQuery(query)
	if err != nil || q.Class != wire.ClassIN || !denialType(q.Type) {
		return nil
	}
	name := record.FromWire(q.Name)
	anchor, ok := v.cfg.Anchors.Closest(name)
	if !ok {
		return nil
	}
	for zone := name; zone.Within(anchor); zone = zone.Parent() {
		if z, ok := v.denials.zones.Get(zone); ok {
			return z.answer(&q, name, zone, v.cfg.Now())
		}
		if zone == record.Root {
			break
		}
	}
	return nil
}

// denialType reports whether queries of a type are answered from known denials.
func denialType(typ uint16) bool {
	switch typ {
	case wire.TypeANY, wire.TypeDS, wire.TypeRRSIG, wire.TypeNSEC, wire.TypeNSEC3:
		return false
	}
	return true
}

// answer returns the answer that the records of the zone prove, or nil.
func (z *deniedZone) answer(q *wire.Query, name, zone record.Name, now time.Time) []byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.soa == nil || !z.soa.fresh(now) {
		return nil
	}
	for _, used := range [2][]*stored{z.candidates(name), z.candidates3(name, zone)} {
		if len(used) == 0 || slices.ContainsFunc(used, func(e *stored) bool { return !e.fresh(now) }) {
			continue
		}
		p := newProof(zone)
		for _, e := range used {
			p.Add(e.set)
		}
		rcode := wire.RcodeNXDomain
		if p.NameError(name) != denial.Proven {
			if p.NoData(name, q.Type) != denial.Proven {
				continue
			}
			rcode = wire.RcodeSuccess
		}
		return z.write(q, used, rcode, now)
	}
	return nil
}

// write writes the answer.
func (z *deniedZone) write(q *wire.Query, used []*stored, rcode uint16, now time.Time) []byte {
	left := z.soa.left(now)
	for _, e := range used {
		left = min(left, e.left(now))
	}
	ttl := uint32(max(left/time.Second, 1))
	count := uint16(0)
	out := wire.AppendValidated(nil, q, rcode)
	out = z.soa.append(out, ttl, q.DO, &count)
	if q.DO {
		for _, e := range used {
			out = e.append(out, ttl, true, &count)
		}
	}
	binary.BigEndian.PutUint16(out[8:], count)
	return wire.AppendOPT(out, q.DO)
}

// candidates returns the NSEC records that may deny a name: the one that matches or covers it, and
// the one that matches or covers the wildcard.
func (z *deniedZone) candidates(name record.Name) (used []*stored) {
	e := z.before(name)
	if e == nil {
		return nil
	}
	used = append(used, e)
	if e.set.Owner == name {
		return used
	}
	n, ok := record.ParseNSEC(e.set.Data[0])
	if !ok {
		return nil
	}
	encloser := record.Common(name, e.set.Owner)
	if c := record.Common(name, n.Next); len(c) > len(encloser) {
		encloser = c
	}
	if wild, ok := encloser.Wildcard(); ok {
		if w := z.before(wild); w != nil && w != e {
			used = append(used, w)
		}
	}
	return used
}

// before returns the NSEC record with the last owner that is not after name.
func (z *deniedZone) before(name record.Name) *stored {
	i, found := slices.BinarySearchFunc(z.nsec, name, func(e *stored, n record.Name) int { return record.Compare(e.set.Owner, n) })
	if !found {
		i--
	}
	if i < 0 {
		return nil
	}
	return z.nsec[i]
}

// candidates3 returns the NSEC3 records that may deny a name: the one that matches it; or those
// that match its closest encloser and cover the next closer name and the wildcard.
func (z *deniedZone) candidates3(name, zone record.Name) (used []*stored) {
	if len(z.nsec3) == 0 || name.Labels()-zone.Labels() > maxHashed {
		return nil
	}
	hash := denial.Hash(name, z.salt, z.iterations)
	e, matches := z.before3(hash)
	if matches {
		return append(used, e)
	}
	for next := name; next != zone; next = next.Parent() {
		parent := next.Parent()
		up, matches := z.before3(denial.Hash(parent, z.salt, z.iterations))
		if !matches {
			e = up
			continue
		}
		used = append(used, up, e)
		if wild, ok := parent.Wildcard(); ok {
			w, _ := z.before3(denial.Hash(wild, z.salt, z.iterations))
			used = append(used, w)
		}
		slices.SortFunc(used, func(x, y *stored) int { return bytes.Compare(x.hash, y.hash) })
		return slices.Compact(used)
	}
	return nil
}

// maxHashed is the number of labels below the zone up to which names are hashed.
const maxHashed = 6

// before3 returns the NSEC3 record with the last hash that is not after hash, in a ring, and
// whether it is that one.
func (z *deniedZone) before3(hash []byte) (e *stored, matches bool) {
	i, found := slices.BinarySearchFunc(z.nsec3, hash, func(e *stored, h []byte) int { return bytes.Compare(e.hash, h) })
	if !found {
		i = (i - 1 + len(z.nsec3)) % len(z.nsec3)
	}
	return z.nsec3[i], found
}

// Flush forgets the denials, so that new names are seen at once.
func (v *Validator) Flush() { v.denials.zones.Clear() }
