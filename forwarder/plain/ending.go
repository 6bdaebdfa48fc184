// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"encoding/binary"

	"sotto/forwarder/wire"
)

// ending finds the end of a zone transfer, by the SOA records in its answers.
//
// An AXFR, or an IXFR that is answered with the whole zone, ends with its second
// SOA (RFC 5936 §2.2). Otherwise an IXFR has, between two SOAs of the version
// that it leads to, for each step an SOA and what is removed, and an SOA and what
// is added (RFC 1995 §4): there the end is an SOA where the next step would start,
// with the first one's serial. Where the client is up to date there is one SOA.
type ending struct {
	incremental bool   // the query has the serial of a version that the client knows
	known       uint32 // that serial
	newest      uint32 // serial of the first SOA
	stage       stage
}

// stage is what the records of a transfer are at.
type stage uint8

const (
	start   stage = iota // nothing was seen
	opened               // one SOA, and nothing else
	whole                // the records of a zone
	removed              // records that a step removes
	added                // records that a step adds
)

// newEnding reads the query for a transfer.
func newEnding(query []byte) (ending, error) {
	var e ending
	q, err := wire.ParseQuery(query)
	if err != nil || q.Opcode != wire.OpcodeQuery || q.Type != wire.TypeAXFR && q.Type != wire.TypeIXFR {
		return e, errNoTransfer
	}
	if q.Type == wire.TypeAXFR {
		return e, nil
	}
	err = wire.EachRecord(query, func(section int, typ uint16, data []byte) bool {
		if section == wire.SectionAuthority && typ == wire.TypeSOA {
			e.known, e.incremental = serialOf(data)
			return false
		}
		return true
	})
	return e, err
}

// message takes the next message of the reply, and tells whether it is the last.
func (e *ending) message(msg []byte) (last bool, err error) {
	if wire.Rcode(msg) != wire.RcodeSuccess {
		return true, nil
	}
	empty := true
	walked := wire.EachRecord(msg, func(section int, typ uint16, data []byte) bool {
		if section != wire.SectionAnswer {
			return false
		}
		empty = false
		last, err = e.record(typ, data)
		return err == nil && !last
	})
	switch {
	case err != nil:
		return false, err
	case walked != nil:
		return false, &malformedError{walked}
	case e.stage == start && empty:
		return true, nil // no error and no zone: nothing will follow
	case e.stage == opened && e.incremental && !newer(e.newest, e.known):
		return true, nil // the client is up to date
	}
	return last, nil
}

// record takes one record of the answers.
func (e *ending) record(typ uint16, data []byte) (last bool, err error) {
	if typ != wire.TypeSOA {
		switch e.stage {
		case start:
			return false, errNoSOA
		case opened:
			e.stage = whole
		}
		return false, nil
	}
	serial, ok := serialOf(data)
	if !ok {
		return false, errNoSOA
	}
	switch e.stage {
	case start:
		e.stage, e.newest = opened, serial
	case opened:
		if !e.incremental || serial != e.known || serial == e.newest {
			return true, nil // a zone of one SOA
		}
		e.stage = removed
	case whole:
		return true, nil
	case removed:
		e.stage = added
	case added:
		if serial == e.newest {
			return true, nil
		}
		e.stage = removed
	}
	return false, nil
}

// serialOf reads the serial from an SOA's data, of which it is the first of five
// numbers at the end (RFC 1035 §3.3.13).
func serialOf(data []byte) (uint32, bool) {
	const names, numbers = 2, 20
	if len(data) < names+numbers {
		return 0, false
	}
	return binary.BigEndian.Uint32(data[len(data)-numbers:]), true
}

// newer compares serials (RFC 1982 §3.2).
func newer(a, b uint32) bool { return int32(a-b) > 0 }
