// SPDX-License-Identifier: Apache-2.0

package record

import "sotto/forwarder/wire"

// namesIn returns where names are in the RDATA of a type: after before bytes and strings
// character-strings there are names names. In canonical form they are lower-case (RFC 4034 §6.2;
// RFC 6840 §5.1 for RRSIG, which is not among them here, and NSEC, whose next name keeps its case
// and is not compressed). Names in the data of other types are part of opaque data (RFC 3597 §7).
func namesIn(typ uint16) (before, strings, names int) {
	switch typ {
	case wire.TypeNS, wire.TypeMD, wire.TypeMF, wire.TypeCNAME, wire.TypeMB, wire.TypeMG, wire.TypeMR,
		wire.TypePTR, wire.TypeDNAME, wire.TypeNXT:
		return 0, 0, 1
	case wire.TypeSOA, wire.TypeMINFO, wire.TypeRP:
		return 0, 0, 2
	case wire.TypeMX, wire.TypeAFSDB, wire.TypeRT, wire.TypeKX:
		return 2, 0, 1
	case wire.TypePX:
		return 2, 0, 2
	case wire.TypeSRV:
		return 6, 0, 1
	case wire.TypeNAPTR:
		return 4, 3, 1
	case wire.TypeSIG:
		return 18, 0, 1
	}
	return 0, 0, 0
}

// canonical returns the RDATA of rr in canonical form.
func (p *Parser) canonical(rr RR) (data []byte, ok bool) {
	before, strings, names := namesIn(rr.Type)
	if names == 0 {
		return p.Raw[rr.Data:rr.End], true
	}
	start, off := len(p.data), rr.Data+before
	for range strings {
		if off >= rr.End {
			return nil, false
		}
		off += 1 + int(p.Raw[off])
	}
	if off > rr.End {
		return nil, false
	}
	p.data = append(p.data, p.Raw[rr.Data:off]...)
	for range names {
		if p.data, off, ok = appendName(p.data, p.Raw, off, true); !ok || off > rr.End {
			return nil, false
		}
	}
	p.data = append(p.data, p.Raw[off:rr.End]...)
	return p.data[start:len(p.data):len(p.data)], true
}
