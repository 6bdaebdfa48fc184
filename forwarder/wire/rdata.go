// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"errors"
)

// Errors about RDATA.
var (
	errAddrLen  = errors.New("an address of the wrong length")
	errDataLen  = errors.New("data is shorter or longer than its type allows")
	errDataName = errors.New("a name in the data runs past its end")
)

// layout describes where a record's RDATA has names.
type layout struct {
	before  int  // number of bytes before the first name
	strings int  // number of character-strings that follow
	names   int  // number of names that follow
	after   int  // number of bytes that follow
	more    bool // there may be more of those
}

// namesToEnd means names up to the end of the RDATA.
const namesToEnd = -1

// layoutOf returns the layout for the types of RFC 1035, those of RFC 3597 §4 that
// receivers should expect compressed, and newer ones whose names are never compressed, but
// in which clients' libraries follow pointers anyway. The zero value means opaque data.
func layoutOf(typ uint16) layout {
	switch typ {
	case TypeNS, TypeMD, TypeMF, TypeCNAME, TypeMB, TypeMG, TypeMR, TypePTR, TypeNSAPPTR, TypeDNAME:
		return layout{names: 1}
	case TypeSOA:
		return layout{names: 2, after: 20}
	case TypeMINFO, TypeRP, TypeTALINK:
		return layout{names: 2}
	case TypeMX, TypeAFSDB, TypeRT, TypeKX, TypeLP:
		return layout{before: 2, names: 1}
	case TypePX:
		return layout{before: 2, names: 2}
	case TypeDSYNC:
		return layout{before: 5, names: 1}
	case TypeSRV:
		return layout{before: 6, names: 1}
	case TypeNAPTR:
		return layout{before: 4, strings: 3, names: 1}
	case TypeSIG, TypeRRSIG:
		return layout{before: 18, names: 1, more: true}
	case TypeNXT, TypeNSEC, TypeTKEY:
		return layout{names: 1, more: true}
	case TypeSVCB, TypeHTTPS:
		return layout{before: 2, names: 1, more: true}
	}
	return layout{}
}

// layoutIn is like layoutOf, and also covers the types whose layout depends on the data.
// Data that is too short is detected when it is read.
func layoutIn(typ uint16, data []byte) layout {
	switch typ {
	case TypeIPSECKEY: // precedence, gateway type, algorithm (RFC 4025 §2.1)
		if len(data) >= 3 && data[1] == 3 {
			return layout{before: 3, names: 1, more: true}
		}
		return layout{}
	case TypeAMTRELAY: // precedence, D and relay type (RFC 8777 §4.2)
		if len(data) >= 2 && data[1]&0x7F == 3 {
			return layout{before: 2, names: 1}
		}
		return layout{}
	case TypeHIP: // lengths of HIT and key, both, servers (RFC 8005 §5)
		if len(data) >= 4 {
			return layout{before: 4 + int(data[0]) + int(binary.BigEndian.Uint16(data[2:])), names: namesToEnd}
		}
		return layout{}
	}
	return layoutOf(typ)
}

// data checks a record's RDATA as far as its type is known, so that a client does not read
// past its end, whether it relies on RDLENGTH or not.
func (w *walker) data(rr record) error {
	size := rr.end - rr.data
	switch {
	case rr.typ == TypeA && rr.class == ClassIN:
		if size != 4 {
			return errAddrLen
		}
		return nil
	case rr.typ == TypeAAAA && rr.class == ClassIN:
		if size != 16 {
			return errAddrLen
		}
		return nil
	}
	l := layoutIn(rr.typ, w.msg[rr.data:rr.end])
	if l.names == 0 {
		return nil
	}
	full := w.full
	off := rr.data + l.before
	for range l.strings {
		if off >= rr.end {
			return errDataLen
		}
		off += 1 + int(w.msg[off])
	}
	for n := l.names; n > 0 || n == namesToEnd && off < rr.end; n = max(n-1, namesToEnd) {
		var err error
		if off, err = w.name(off, rr.end); err == errNameEnd {
			return errDataName
		} else if err != nil {
			return err
		}
	}
	if !isCompressible(rr.typ) {
		w.full = full
	}
	if left := rr.end - off; left < l.after || left > l.after && !l.more {
		return errDataLen
	}
	return nil
}
