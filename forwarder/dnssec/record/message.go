// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"sotto/forwarder/wire"
)

// Sections of a message.
const (
	Answer = iota
	Authority
	Additional
)

// Message is a parsed reply.
type Message struct {
	Raw []byte

	Name  Name // of the question
	Type  uint16
	Class uint16
	QEnd  int // offset after the question

	Rcode uint16 // with the upper bits of OPT

	Records []RR   // in the order of the message
	Sets    []*Set // in the order of their first record
}

// RR is one record of a message.
type RR struct {
	Section int
	Type    uint16
	Set     *Set // nil for OPT and for an RRSIG that does not parse

	At, TTL, Data, End int // offsets in the message: owner, TTL, RDATA, and what follows
}

// Set is an RRset with its signatures.
type Set struct {
	Section int
	Owner   Name
	Type    uint16
	Class   uint16
	TTL     uint32   // the lowest of its records
	Data    [][]byte // RDATA in canonical form and order, without duplicates; empty if only signatures are there
	Sigs    []RRSIG

	Reached bool // for the caller: the question leads to the RRset
	Keep    bool // for the caller: the RRset is part of the answer, and verified
}

// ErrMalformed is returned for a message that cannot be parsed.
var ErrMalformed = errors.New("malformed message")

type setKey struct {
	section     int
	owner       Name
	typ, class_ uint16
}

// usualRecords is more than most replies have.
const usualRecords = 16

const fixedLen = 10 // fields between a record's owner and its RDATA

// Parse parses a reply. The result aliases msg.
func Parse(msg []byte) (*Message, error) {
	var p Parser
	return p.Parse(msg)
}

// Parser parses replies, and reuses the memory of the previous one. It is used by one goroutine.
type Parser struct {
	Message
	sets map[setKey]*Set
	last Name // the owner of the previous record: usually that of the next one
	data []byte
	pool []*Set // all that were made; the first ones are in use
}

// Parse parses a reply. The result aliases msg, and is valid until the next call.
func (p *Parser) Parse(msg []byte) (*Message, error) {
	if len(msg) < wire.HeaderLen || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return nil, ErrMalformed
	}
	var room [wire.MaxName]byte
	name, off, ok := appendName(room[:0], msg, wire.HeaderLen, true)
	if !ok || off+4 > len(msg) {
		return nil, ErrMalformed
	}
	m := &p.Message
	*m = Message{Raw: msg, Name: Name(name), QEnd: off + 4, Rcode: uint16(msg[3] & 0x0F), Records: m.Records[:0], Sets: m.Sets[:0]}
	m.Type, m.Class = binary.BigEndian.Uint16(msg[off:]), binary.BigEndian.Uint16(msg[off+2:])
	n := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	m.Records = slices.Grow(m.Records, min(n, usualRecords))
	p.sets, p.last, p.data = nil, m.Name, p.data[:0]
	off = m.QEnd
	for section := range 3 {
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			if off, ok = p.record(section, off); !ok {
				return nil, ErrMalformed
			}
		}
	}
	m.Raw = msg[:off]
	for _, s := range m.Sets {
		if len(s.Data) > 1 {
			slices.SortFunc(s.Data, bytes.Compare)
			s.Data = slices.CompactFunc(s.Data, bytes.Equal)
		}
	}
	return m, nil
}

// Large reports whether the parser holds so much memory that it should not be kept.
func (p *Parser) Large() bool { return len(p.pool) > 64 || cap(p.Records) > 256 || cap(p.data) > 1<<14 }

// newSet returns an RRset, which reuses the memory of an earlier one.
func (p *Parser) newSet(k setKey, ttl uint32) *Set {
	n := len(p.Sets)
	if n == len(p.pool) {
		p.pool = append(p.pool, new(Set))
	}
	s := p.pool[n]
	*s = Set{Section: k.section, Owner: k.owner, Type: k.typ, Class: k.class_, TTL: ttl, Data: s.Data[:0], Sigs: s.Sigs[:0]}
	p.Sets = append(p.Sets, s)
	return s
}

// record parses the record at off and returns the offset after it.
func (p *Parser) record(section, off int) (end int, ok bool) {
	rr := RR{Section: section, At: off}
	var room [wire.MaxName]byte
	owner, off, ok := appendName(room[:0], p.Raw, off, true)
	if !ok || off+fixedLen > len(p.Raw) {
		return 0, false
	}
	rr.Type = binary.BigEndian.Uint16(p.Raw[off:])
	class := binary.BigEndian.Uint16(p.Raw[off+2:])
	rr.TTL, rr.Data = off+4, off+fixedLen
	rr.End = rr.Data + int(binary.BigEndian.Uint16(p.Raw[off+8:]))
	if rr.End > len(p.Raw) {
		return 0, false
	}
	if string(owner) != string(p.last) {
		p.last = Name(owner)
	}
	ttl := binary.BigEndian.Uint32(p.Raw[rr.TTL:])
	switch rr.Type {
	case wire.TypeOPT:
		if section == Additional {
			p.Rcode |= uint16(ttl>>24) << 4
		}
	case wire.TypeRRSIG:
		if sig, ok := parseRRSIG(p.Raw, rr.Data, rr.End); ok {
			rr.Set = p.set(setKey{section, p.last, sig.Covered, class}, ttl)
			rr.Set.Sigs = append(rr.Set.Sigs, sig)
		}
	default:
		rr.Set = p.set(setKey{section, p.last, rr.Type, class}, ttl)
		data, ok := p.canonical(rr)
		if !ok {
			return 0, false
		}
		rr.Set.Data = append(rr.Set.Data, data)
	}
	p.Records = append(p.Records, rr)
	return rr.End, true
}

// set returns the RRset with that key, and creates it if there is none.
func (p *Parser) set(k setKey, ttl uint32) *Set {
	if n := len(p.Sets); n > 0 {
		if s := p.Sets[n-1]; s.is(k) {
			s.TTL = min(s.TTL, ttl)
			return s
		}
	}
	if p.sets == nil && len(p.Sets) >= 8 {
		p.sets = make(map[setKey]*Set)
		for _, s := range p.Sets {
			p.sets[setKey{s.Section, s.Owner, s.Type, s.Class}] = s
		}
	}
	var s *Set
	if p.sets != nil {
		s = p.sets[k]
	} else if i := slices.IndexFunc(p.Sets, func(s *Set) bool { return s.is(k) }); i >= 0 {
		s = p.Sets[i]
	}
	if s == nil {
		s = p.newSet(k, ttl)
		if p.sets != nil {
			p.sets[k] = s
		}
	}
	s.TTL = min(s.TTL, ttl)
	return s
}

func (s *Set) is(k setKey) bool {
	return s.Type == k.typ && s.Section == k.section && s.Class == k.class_ && s.Owner == k.owner
}

// Find returns the RRset of a section, or nil. An RRset of which only signatures are there is not
// returned.
func (m *Message) Find(section int, owner Name, typ uint16) *Set {
	for _, s := range m.Sets {
		if s.Section == section && s.Type == typ && s.Class == m.Class && s.Owner == owner && len(s.Data) > 0 {
			return s
		}
	}
	return nil
}
