// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"encoding/binary"

	"sotto/forwarder/wire"
)

// endDetector finds the end of a zone transfer by the SOA records in its answers.
//
// An AXFR, or an IXFR that is answered with the whole zone, ends with its second
// SOA (RFC 5936 §2.2). An incremental IXFR starts and ends with the SOA of the newest
// version. Between them each step has an SOA with the removed records, and an SOA with
// the added records (RFC 1995 §4). Its end is the first SOA with the newest serial where
// the next step would start. If the client is up to date there is a single SOA.
type endDetector struct {
	incremental bool   // the query has the serial of the client's version
	known       uint32 // that serial
	newest      uint32 // serial of the first SOA
	stage       stage
}

// stage is the part of a transfer that the next record belongs to.
type stage uint8

const (
	start   stage = iota // no record yet
	opened               // one SOA only
	whole                // the records of a zone
	removed              // records that a step removes
	added                // records that a step adds
)

// newEndDetector parses the query for a transfer.
func newEndDetector(query []byte) (endDetector, error) {
	var e endDetector
	q, err := wire.ParseQuery(query)
	if err != nil || q.Opcode != wire.OpcodeQuery || q.Type != wire.TypeAXFR && q.Type != wire.TypeIXFR {
		return e, errNotTransfer
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

// message processes the next message of the reply, and reports whether it is the last.
func (e *endDetector) message(msg []byte) (last bool, err error) {
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
		return true, nil // no error and no zone: no message follows
	case e.stage == opened && e.incremental && !newer(e.newest, e.known):
		return true, nil // the client is up to date
	}
	return last, nil
}

// record processes one record of the answers, and reports whether it is the last.
func (e *endDetector) record(typ uint16, data []byte) (last bool, err error) {
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
			return true, nil // a zone that has only an SOA
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

// serialOf returns the serial of an SOA's data, which is the first of five numbers at the
// end (RFC 1035 §3.3.13).
func serialOf(data []byte) (uint32, bool) {
	const names, numbers = 2, 20
	if len(data) < names+numbers {
		return 0, false
	}
	return binary.BigEndian.Uint32(data[len(data)-numbers:]), true
}

// newer reports whether serial a is newer than b (RFC 1982 §3.2).
func newer(a, b uint32) bool { return int32(a-b) > 0 }
