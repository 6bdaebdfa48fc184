// SPDX-License-Identifier: Apache-2.0

package ednstest

import "slices"

// Question is one question, and what its answer has to be.
type Question struct {
	What string // as ISC's tester calls it, where it has it

	name  string // "": www.example
	typ   uint16 // 0: A
	flags uint16
	opt   *OPT

	rcode   int
	edns    bool
	do      bool
	answers int
	cut     bool // over UDP
}

// Header flags, as a query's second 16 bits.
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

// with4096 is an OPT record as most clients send it.
func with4096(version byte, flags uint16, options ...[]byte) *OPT {
	return &OPT{Size: 4096, Version: version, Flags: flags, Options: slices.Concat(options...)}
}

// Questions are all of them.
var Questions = []Question{
	{What: "dns", flags: rd, answers: 1},
	{What: "aa", flags: rd | 0x0400, answers: 1},
	{What: "ad", flags: rd | ad, answers: 1},
	{What: "cd", flags: rd | cd, answers: 1},
	{What: "ra", flags: rd | 0x0080, answers: 1},
	{What: "tc", flags: rd | 0x0200, answers: 1},
	{What: "zflag", flags: rd | z, answers: 1},
	{What: "opcode", flags: unknownOpcode, rcode: notImp},
	{What: "opcodeflg", flags: unknownOpcode | 0x07f0, rcode: notImp},
	{What: "type666", typ: 666, flags: rd, answers: 1},
	{What: "edns", flags: rd, opt: with4096(0, 0), edns: true, answers: 1},
	{What: "edns1", flags: rd, opt: with4096(1, 0), rcode: badVers, edns: true},
	{What: "edns100", flags: rd, opt: with4096(100, 0), rcode: badVers, edns: true},
	{What: "ednsopt", flags: rd, opt: with4096(0, 0, Option(100, "")), edns: true, answers: 1},
	{What: "edns1opt", flags: rd, opt: with4096(1, 0, Option(100, "")), rcode: badVers, edns: true},
	{What: "ednsflags", flags: rd, opt: with4096(0, 0x0080), edns: true, answers: 1},
	{What: "edns1flags", flags: rd, opt: with4096(1, 0x0080), rcode: badVers, edns: true},
	{What: "docheck", flags: rd, opt: with4096(0, 0x8000), edns: true, do: true, answers: 2},
	{What: "edns1do", flags: rd, opt: with4096(1, 0x8000), rcode: badVers, edns: true, do: true},
	{What: "ednstcp, 512", name: "txt-2000.example", typ: typeTXT, flags: rd, opt: &OPT{Size: 512}, edns: true, answers: 1, cut: true},
	{What: "optlist", flags: rd, opt: with4096(0, 0, Option(optNSID, ""), Option(optSubnet, "\x00\x01\x00\x00"), Option(optCookie, "12345678"),
		Option(optExpire, ""), Option(optPadding, "\x00\x00\x00\x00")), edns: true, answers: 1},
	{What: "size 0", flags: rd, opt: &OPT{}, edns: true, answers: 1},
	{What: "opcode and edns", flags: unknownOpcode, opt: with4096(0, 0), rcode: notImp, edns: true},
	{What: "nxdomain", name: "nxdomain.example", flags: rd, opt: with4096(0, 0), rcode: nxDomain, edns: true},
}

// Query is the question as it is sent.
func (q *Question) Query() []byte {
	name, typ := q.name, q.typ
	if name == "" {
		name = "www.example"
	}
	if typ == 0 {
		typ = typeA
	}
	return Query(name, typ, q.flags, q.opt)
}
