// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// These functions build messages that no library would write.

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func u16(v ...uint16) []byte {
	var b []byte
	for _, v := range v {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return b
}

// name returns an uncompressed wire name. Labels may have any bytes.
func name(labels ...string) []byte { return append(open(labels...), 0) }

// open returns a name without its end, to be followed by a pointer.
func open(labels ...string) []byte {
	var b []byte
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	return b
}

func ptr(off int) []byte { return u16(0xC000 | uint16(off)) }

// longName returns a name of the maximum length, 255 bytes.
func longName() []byte {
	l := strings.Repeat("x", 63)
	return name(l, l, l, l[:61])
}

// head returns a header with ID 0x1234.
func head(flags uint16, counts ...uint16) []byte {
	return cat(u16(0x1234, flags), u16(counts...), make([]byte, 8-2*len(counts)))
}

const (
	fQR = 0x8000
	fAA = 0x0400
	fTC = 0x0200
	fRD = 0x0100
	fRA = 0x0080
	fZ  = 0x0040
	fAD = 0x0020
	fCD = 0x0010
)

func rawRecord(owner []byte, typ, class uint16, ttl uint32, data []byte) []byte {
	return cat(owner, u16(typ, class, uint16(ttl>>16), uint16(ttl), uint16(len(data))), data)
}

// in returns a record with class IN and TTL 300.
func in(owner []byte, typ uint16, data ...[]byte) []byte {
	return rawRecord(owner, typ, ClassIN, 300, cat(data...))
}

func soa(owner []byte, ttl, minimum uint32) []byte {
	return rawRecord(owner, TypeSOA, ClassIN, ttl, cat(name("ns"), name("host"),
		make([]byte, 16), u16(uint16(minimum>>16), uint16(minimum))))
}

// opt returns an OPT record: class (size), TTL (extended rcode, version, flags), options.
func opt(size uint16, ttl uint32, options ...[]byte) []byte {
	return rawRecord([]byte{0}, TypeOPT, size, ttl, cat(options...))
}

// signature returns a TSIG record with HMAC-SHA256.
func signature(key []byte, mac string) []byte {
	return rawRecord(key, TypeTSIG, ClassANY, 0, cat(name("hmac-sha256"), u16(0, 0x1234, 0x5678, 300),
		u16(uint16(len(mac))), []byte(mac), u16(0x1234, 0, 0)))
}

func option(code uint16, value string) []byte {
	return cat(u16(code, uint16(len(value))), []byte(value))
}

var (
	example  = name("www", "example", "com")
	question = cat(example, u16(TypeA, ClassIN))
	// firstRecord is the offset of the first record after that question.
	firstRecord = HeaderLen + len(question)
	addr        = []byte{192, 0, 2, 1}
	// self points to the question's name.
	self = ptr(HeaderLen)
)

// ask returns a query for www.example.com. A, with additional records.
func ask(flags uint16, ar uint16, parts ...[]byte) []byte {
	return cat(head(flags, 1, 0, 0, ar), question, cat(parts...))
}

// reply returns a reply to that query.
func reply(flags uint16, an, ns, ar uint16, parts ...[]byte) []byte {
	return cat(head(fQR|fRD|fRA|flags, 1, an, ns, ar), question, cat(parts...))
}

func mustQuery(t testing.TB, msg []byte) Query {
	t.Helper()
	q, err := ParseQuery(msg)
	if err != nil {
		t.Fatalf("ParseQuery %x: %v", msg, err)
	}
	return q
}

func mustReply(t testing.TB, msg []byte) Reply {
	t.Helper()
	r, err := ParseReply(slices.Clone(msg))
	if err != nil {
		t.Fatalf("ParseReply %x: %v", msg, err)
	}
	return r
}

func unpack(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack %x: %v", b, err)
	}
	return m
}
