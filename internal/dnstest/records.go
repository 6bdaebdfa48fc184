// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
)

// records returns the rdata for the name and type of the question.
func (z *Zone) records(q *query, selector string, n int) [][]byte {
	switch q.qtype {
	case TypeA, TypeAAAA:
		return z.addresses(q, selector, n)
	case TypeTXT:
		if selector == "txt" {
			return [][]byte{text(min(n, maxTXT))}
		}
		return [][]byte{append([]byte{5}, "sotto"...)}
	case TypeMX:
		return [][]byte{append([]byte{0, 10}, z.under("mail")...)}
	case TypeSRV:
		return [][]byte{append([]byte{0, 1, 0, 1, 0x01, 0xbb}, z.under("www")...)}
	case TypeHTTPS, TypeSVCB:
		return [][]byte{z.service()}
	case TypeNS, TypePTR:
		return [][]byte{z.under("ns")}
	case TypeSOA:
		if len(q.labels) == len(z.origin) {
			return [][]byte{z.soa()}
		}
		return nil
	case TypeCNAME:
		return nil
	}
	return [][]byte{bytes.Repeat([]byte{byte(q.qtype)}, 32)}
}

// addresses returns the A or AAAA rdata of a name.
func (z *Zone) addresses(q *query, selector string, n int) [][]byte {
	if host, ok := z.hosts[q.nameString()]; ok {
		var out [][]byte
		for _, a := range host {
			if a = a.Unmap(); a.Is4() == (q.qtype == TypeA) {
				out = append(out, a.AsSlice())
			}
		}
		return out
	}
	base := z.a
	if q.qtype == TypeAAAA {
		base = z.aaaa
	}
	if selector != "a" || len(base) == 0 {
		return base
	}
	perRecord := len(questionPtr) + 10 + len(base[0])
	out := make([][]byte, min(n, 60_000/perRecord))
	for i := range out {
		out[i] = bytes.Clone(base[0])
		binary.BigEndian.PutUint16(out[i][len(out[i])-2:], uint16(i))
	}
	return out
}

// text returns TXT rdata of exactly n bytes, in strings of at most 255.
func text(n int) []byte {
	out := make([]byte, 0, n)
	for len(out) < n {
		size := min(255, n-len(out)-1)
		out = append(out, byte(size))
		for i := range size {
			out = append(out, 'a'+byte(i%26))
		}
	}
	return out
}

// service returns SVCB rdata (RFC 9460 §2.2): priority 1, target ".", ALPN h2 and h3,
// and address hints.
func (z *Zone) service() []byte {
	out := []byte{0, 1, 0}
	out = append(out, 0, 1, 0, 6, 2, 'h', '2', 2, 'h', '3')
	if len(z.a) > 0 {
		out = append(out, 0, 4, 0, 4)
		out = append(out, z.a[0]...)
	}
	if len(z.aaaa) > 0 {
		out = append(out, 0, 6, 0, 16)
		out = append(out, z.aaaa[0]...)
	}
	return out
}

// under returns the wire name of a label below the origin.
func (z *Zone) under(label string) []byte {
	return append(append([]byte{byte(len(label))}, label...), z.wire...)
}

// addSOA adds the zone's SOA, as in negative answers (RFC 2308 §3), and its
// signature.
func (z *Zone) addSOA(r *reply, section int) {
	r.add(section, z.wire, TypeSOA, z.negTTL, z.soa())
	if r.q.do {
		r.add(section, z.wire, TypeRRSIG, z.negTTL, z.signature(TypeSOA, z.negTTL))
	}
}

func (z *Zone) soa() []byte {
	out := append(z.under("ns"), z.under("hostmaster")...)
	for _, v := range []uint32{1, 3600, 600, 86400, z.negTTL} {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	return out
}

// addAliases adds a chain of n CNAME records, starting at the question, and returns the
// last target.
func (z *Zone) addAliases(r *reply, n int, ttl uint32) []byte {
	owner := questionPtr
	for i := range n {
		target := z.under(fmt.Sprintf("alias%d", i+1))
		r.add(answerSection, owner, TypeCNAME, ttl, target)
		if r.q.do {
			r.add(answerSection, owner, TypeRRSIG, ttl, z.signature(TypeCNAME, ttl))
		}
		owner = target
	}
	return owner
}

// signature returns well-formed RRSIG rdata (RFC 4034 §3.1) with noise as the
// signature.
func (z *Zone) signature(covered uint16, ttl uint32) []byte {
	const algorithm = 13 // ECDSA P-256: 64 bytes
	out := binary.BigEndian.AppendUint16(nil, covered)
	out = append(out, algorithm, byte(len(z.origin)+1))
	for _, v := range []uint32{ttl, 0xffffffff, 0} {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	out = binary.BigEndian.AppendUint16(out, 12345)
	out = append(out, z.wire...)
	noise := fnv.New64a()
	for i := range 8 {
		noise.Write([]byte{byte(i), byte(covered)})
		out = noise.Sum(out)
	}
	return out
}
