// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"encoding/binary"
	"unsafe"

	"sotto/forwarder/wire"
)

const (
	// edeHead is the length of the fields before an EDE's text in an entry: its code,
	// and the text's length in one byte. (At most 200 bytes are sent.)
	edeHead    = 3
	maxEDEText = 255
	// maxEDEs is the maximum of [wire.ParseReply].
	maxEDEs = 8
)

// edesLen returns the number of bytes that packEDEs writes.
func edesLen(ede []wire.EDE) int {
	n := 0
	for i := range ede {
		n += edeHead + min(len(ede[i].Text), maxEDEText)
	}
	return n
}

// packEDEs writes ede to dst, which must have the right length.
func packEDEs(dst []byte, ede []wire.EDE) {
	for i := range ede {
		binary.BigEndian.PutUint16(dst, ede[i].Code)
		n := copy(dst[edeHead:], ede[i].Text[:min(len(ede[i].Text), maxEDEText)])
		dst[2] = byte(n)
		dst = dst[edeHead+n:]
	}
}

// unpackEDEs is the reverse of packEDEs and stores the result in room. The texts alias
// packed, which is never modified.
func unpackEDEs(room *[maxEDEs]wire.EDE, packed []byte) []wire.EDE {
	n := 0
	for ; n < len(room) && len(packed) >= edeHead; n++ {
		end := edeHead + int(packed[2])
		text := packed[edeHead:end]
		room[n] = wire.EDE{Code: binary.BigEndian.Uint16(packed), Text: unsafe.String(unsafe.SliceData(text), len(text))}
		packed = packed[end:]
	}
	return room[:n]
}
