// SPDX-License-Identifier: Apache-2.0

package ednstest

import (
	"encoding/binary"
	"strings"
)

// id is the ID of every query.
const id = 0x1234

// OPT describes an OPT record, which need not be valid.
type OPT struct {
	Size    uint16
	Version byte
	Flags   uint16 // DO is 0x8000; servers must ignore the others
	Options []byte
}

// Option returns an EDNS option in wire form.
func Option(code uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, code)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// Query returns a query with the given header flags and, unless nil, an OPT record. Labels
// in name must not contain dots or escapes.
func Query(name string, typ, flags uint16, opt *OPT) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		if label != "" {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	b = append(b, 0, byte(typ>>8), byte(typ), 0, 1)
	if opt == nil {
		return b
	}
	b[11] = 1
	b = append(b, 0, 0, 41, byte(opt.Size>>8), byte(opt.Size), 0, opt.Version, byte(opt.Flags>>8), byte(opt.Flags))
	b = binary.BigEndian.AppendUint16(b, uint16(len(opt.Options)))
	return append(b, opt.Options...)
}
