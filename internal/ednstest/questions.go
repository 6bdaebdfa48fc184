// SPDX-License-Identifier: Apache-2.0

package ednstest

import "slices"

// Question is a query and the properties of a correct reply.
type Question struct {
	Name string // as in ISC's tester, if it has this query

	qname string // "": www.example
	qtype uint16 // 0: A
	flags uint16
	opt   *OPT

	rcode     int
	edns      bool
	do        bool
	answers   int
	truncated bool // over UDP
}

// Header flags: the second 16 bits of a query.
const (
	rd            = 0x0100
	ad            = 0x0020
	cd            = 0x0010
	z             = 0x0040
	unknownOpcode = 15 << 11
)

// Response codes.
const (
	nxDomain = 3
	notImp   = 4
	badVers  = 16
)

const (
	typeA   = 1
	typeTXT = 16

	optNSID    = 3
	optSubnet  = 8
	optExpire  = 9
	optCookie  = 10
	optPadding = 12
	optEDE     = 15
)

// with4096 returns an OPT record with the size that most clients advertise.
func with4096(version byte, flags uint16, options ...[]byte) *OPT {
	return &OPT{Size: 4096, Version: version, Flags: flags, Options: slices.Concat(options...)}
}

// Questions lists all questions.
var Questions = []Question{
	{Name: "dns", flags: rd, answers: 1},
	{Name: "aa", flags: rd | 0x0400, answers: 1},
	{Name: "ad", flags: rd | ad, answers: 1},
	{Name: "cd", flags: rd | cd, answers: 1},
	{Name: "ra", flags: rd | 0x0080, answers: 1},
	{Name: "tc", flags: rd | 0x0200, answers: 1},
	{Name: "zflag", flags: rd | z, answers: 1},
	{Name: "opcode", flags: unknownOpcode, rcode: notImp},
	{Name: "opcodeflg", flags: unknownOpcode | 0x07f0, rcode: notImp},
	{Name: "type666", qtype: 666, flags: rd, answers: 1},
	{Name: "edns", flags: rd, opt: with4096(0, 0), edns: true, answers: 1},
	{Name: "edns1", flags: rd, opt: with4096(1, 0), rcode: badVers, edns: true},
	{Name: "edns100", flags: rd, opt: with4096(100, 0), rcode: badVers, edns: true},
	{Name: "ednsopt", flags: rd, opt: with4096(0, 0, Option(100, "")), edns: true, answers: 1},
	{Name: "edns1opt", flags: rd, opt: with4096(1, 0, Option(100, "")), rcode: badVers, edns: true},
	{Name: "ednsflags", flags: rd, opt: with4096(0, 0x0080), edns: true, answers: 1},
	{Name: "edns1flags", flags: rd, opt: with4096(1, 0x0080), rcode: badVers, edns: true},
	{Name: "docheck", flags: rd, opt: with4096(0, 0x8000), edns: true, do: true, answers: 2},
	{Name: "edns1do", flags: rd, opt: with4096(1, 0x8000), rcode: badVers, edns: true, do: true},
	{Name: "ednstcp, 512", qname: "txt-2000.example", qtype: typeTXT, flags: rd, opt: &OPT{Size: 512}, edns: true, answers: 1, truncated: true},
	{Name: "optlist", flags: rd, opt: with4096(0, 0, Option(optNSID, ""), Option(optSubnet, "\x00\x01\x00\x00"), Option(optCookie, "12345678"),
		Option(optExpire, ""), Option(optPadding, "\x00\x00\x00\x00")), edns: true, answers: 1},
	{Name: "size 0", flags: rd, opt: &OPT{}, edns: true, answers: 1},
	{Name: "opcode and edns", flags: unknownOpcode, opt: with4096(0, 0), rcode: notImp, edns: true},
	{Name: "nxdomain", qname: "nxdomain.example", flags: rd, opt: with4096(0, 0), rcode: nxDomain, edns: true},
}

// Query returns the query in wire form.
func (q *Question) Query() []byte {
	name, qtype := q.qname, q.qtype
	if name == "" {
		name = "www.example"
	}
	if qtype == 0 {
		qtype = typeA
	}
	return Query(name, qtype, q.flags, q.opt)
}
