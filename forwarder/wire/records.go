// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"errors"
)

// The sections of a message that hold records.
const (
	SectionAnswer = iota
	SectionAuthority
	SectionAdditional
)

var errRecordsShort = errors.New("message is shorter than a header")

// EachRecord calls each for the records of a message in order, until it returns false. It
// checks only what it needs to find the next record, so it is for messages that are passed
// on unchanged. They may have any opcode and any number of questions. data aliases msg.
func EachRecord(msg []byte, each func(section int, typ uint16, data []byte) bool) error {
	return eachRecord(msg, func(section int, rr record) bool { return each(section, rr.typ, msg[rr.data:rr.end]) })
}

// AgeTTLs subtracts age from the TTL of every record of a message, and limits it to limit,
// both in seconds. It changes the records before an error.
func AgeTTLs(msg []byte, age, limit uint32) error {
	return eachRecord(msg, func(_ int, rr record) bool {
		if rr.typ != TypeOPT && rr.typ != TypeTSIG {
			field := msg[rr.ttl : rr.ttl+4]
			ttl := binary.BigEndian.Uint32(field)
			binary.BigEndian.PutUint32(field, min(ttl-min(ttl, age), limit))
		}
		return true
	})
}

// eachRecord calls each for the records of a message in order, until it returns false.
func eachRecord(msg []byte, each func(section int, rr record) bool) error {
	if len(msg) < HeaderLen {
		return errRecordsShort
	}
	off := HeaderLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		var err error
		if off, err = skipName(msg, off); err != nil {
			return err
		}
		if off += 4; off > len(msg) {
			return errFixed
		}
	}
	for section := range 3 {
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			rr, err := skipRecord(msg, off)
			if err != nil {
				return err
			}
			if !each(section, rr) {
				return nil
			}
			off = rr.end
		}
	}
	return nil
}
