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
			if !each(section, rr.typ, msg[rr.data:rr.end]) {
				return nil
			}
			off = rr.end
		}
	}
	return nil
}
