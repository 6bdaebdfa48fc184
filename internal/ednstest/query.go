// SPDX-License-Identifier: Apache-2.0

package ednstest

import (
	"encoding/binary"
	"strings"
)

// id is that of every query.
const id = 0x1234

// OPT is an OPT record with anything in it.
type OPT struct {
	Size    uint16
	Version byte
	Flags   uint16 // DO is 0x8000, the rest has to be ignored
	Options []byte
}

// Option is one EDNS option.
func Option(code uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, code)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// Query asks for a name with these header flags and, unless nil, OPT record. Labels
// have no dots or escapes in them.
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
