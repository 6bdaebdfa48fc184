// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"encoding/binary"

	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/wire"
)

// part is the part of a reply that is passed on.
type part int

const (
	unfiltered part = iota // not validated
	reached                // insecure: without RRsets of the answer section that the question does not lead to
	verified               // secure: the RRsets that were verified
)

// has reports whether a record belongs to the part.
func (p part) has(rr *record.RR) bool {
	switch p {
	case reached:
		return rr.Section != record.Answer || rr.Set != nil && rr.Set.Reached
	case verified:
		return rr.Set != nil && rr.Set.Keep
	}
	return true
}

// finish returns the reply with a part of its records. Signatures and denial records are removed for
// a client that did not set DO, unless it asked for them (RFC 4035 §3.2.1).
func (v *Validator) finish(m *record.Message, p part, do bool) []byte {
	kept := func(rr *record.RR) bool {
		if rr.Type == wire.TypeOPT {
			return true
		}
		if !do && isSignature(rr.Type) && rr.Type != m.Type && m.Type != wire.TypeANY {
			return false
		}
		return p.has(rr)
	}
	first := 0 // the first record that is removed
	for first < len(m.Records) && kept(&m.Records[first]) {
		first++
	}
	if first == len(m.Records) {
		return m.Raw
	}
	for i := first; i < len(m.Records); i++ {
		if rr := &m.Records[i]; rr.Type != wire.TypeOPT && kept(rr) {
			return rebuild(m, kept)
		}
	}
	return cut(m, first)
}

// cut removes all records from the one with that number on, except for OPT, in place.
func cut(m *record.Message, first int) []byte {
	var counts [3]uint16
	out := m.Raw[:m.Records[first].At]
	for i := range m.Records {
		rr := &m.Records[i]
		if i >= first && rr.Type != wire.TypeOPT {
			continue
		}
		counts[rr.Section]++
		if i >= first { // its owner is the root
			out = append(out, m.Raw[rr.At:rr.End]...)
		}
	}
	setCounts(out, counts)
	return out
}

func setCounts(msg []byte, counts [3]uint16) {
	for section, n := range counts {
		binary.BigEndian.PutUint16(msg[6+2*section:], n)
	}
}

func isSignature(typ uint16) bool {
	return typ == wire.TypeRRSIG || typ == wire.TypeNSEC || typ == wire.TypeNSEC3
}

// rebuild returns the message with some of its records.
func rebuild(m *record.Message, kept func(*record.RR) bool) []byte {
	w := record.NewWriter(m.Raw[:m.QEnd])
	var counts [3]uint16
	for i := range m.Records {
		if rr := &m.Records[i]; kept(rr) && w.Copy(m, rr) {
			counts[rr.Section]++
		}
	}
	out := w.Bytes()
	setCounts(out, counts)
	return out
}
