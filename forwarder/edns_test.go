// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// optRecord is an OPT record with anything in it.
type optRecord struct {
	size    uint16
	version byte
	flags   uint16 // DO is 0x8000, the rest has to be ignored
	options []byte
}

// option is one EDNS option.
func option(code uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, code)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// rawQuery asks for a name with these header flags and, unless nil, OPT record.
func rawQuery(t *testing.T, name string, typ uint16, flags uint16, opt *optRecord) []byte {
	t.Helper()
	b := []byte{0x12, 0x34, byte(flags >> 8), byte(flags), 0, 1, 0, 0, 0, 0, 0, 0}
	wire := make([]byte, 255)
	n, err := dns.PackDomainName(dns.Fqdn(name), wire, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, wire[:n]...)
	b = append(b, byte(typ>>8), byte(typ), 0, 1)
	if opt == nil {
		return b
	}
	b[11] = 1
	b = append(b, 0, 0, 41, byte(opt.size>>8), byte(opt.size), 0, opt.version, byte(opt.flags>>8), byte(opt.flags))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(opt.options))), opt.options...)
}

// askRaw sends bytes and returns the bytes that come back.
func askRaw(t *testing.T, proto string, at netip.AddrPort, query []byte) []byte {
	t.Helper()
	c, err := net.Dial(proto, at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dc := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	_ = dc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := dc.Write(query); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, dns.MaxMsgSize)
	n, err := dc.Read(b)
	if err != nil {
		t.Fatalf("%s over %s: %v", fmt.Sprintf("%x", query), proto, err)
	}
	return b[:n]
}

// TestEDNSCompliance asks what ISC's EDNS compliance tester asks of servers, and wants
// what RFC 1035, 6891 and 6840 say: who knows no EDNS gets none; an unknown version is
// BADVERS and nothing else; unknown options and flags are ignored and do not come back;
// DO comes back; an unknown opcode is NOTIMP; and no reply is longer than its client
// said.
func TestEDNSCompliance(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	const rd, ad, cd, z = 0x0100, 0x0020, 0x0010, 0x0040
	const unknownOpcode = 15 << 11
	plain := &optRecord{size: 4096}
	for _, tc := range []struct {
		what  string
		name  string
		typ   uint16
		flags uint16
		opt   *optRecord

		rcode   int
		edns    bool
		do      bool
		answers int
		cut     bool // over UDP
	}{
		{what: "dns", flags: rd, answers: 1},
		{what: "aa", flags: rd | 0x0400, answers: 1},
		{what: "ad", flags: rd | ad, answers: 1},
		{what: "cd", flags: rd | cd, answers: 1},
		{what: "ra", flags: rd | 0x0080, answers: 1},
		{what: "tc", flags: rd | 0x0200, answers: 1},
		{what: "zflag", flags: rd | z, answers: 1},
		{what: "opcode", flags: unknownOpcode, rcode: dns.RcodeNotImplemented},
		{what: "opcodeflg", flags: unknownOpcode | 0x07f0, rcode: dns.RcodeNotImplemented},
		{what: "type666", typ: 666, flags: rd, answers: 1},
		{what: "edns", flags: rd, opt: plain, edns: true, answers: 1},
		{what: "edns1", flags: rd, opt: &optRecord{size: 4096, version: 1}, rcode: dns.RcodeBadVers, edns: true},
		{what: "edns100", flags: rd, opt: &optRecord{size: 4096, version: 100}, rcode: dns.RcodeBadVers, edns: true},
		{what: "ednsopt", flags: rd, opt: &optRecord{size: 4096, options: option(100, "")}, edns: true, answers: 1},
		{what: "edns1opt", flags: rd, opt: &optRecord{size: 4096, version: 1, options: option(100, "")}, rcode: dns.RcodeBadVers, edns: true},
		{what: "ednsflags", flags: rd, opt: &optRecord{size: 4096, flags: 0x0080}, edns: true, answers: 1},
		{what: "edns1flags", flags: rd, opt: &optRecord{size: 4096, version: 1, flags: 0x0080}, rcode: dns.RcodeBadVers, edns: true},
		{what: "docheck", flags: rd, opt: &optRecord{size: 4096, flags: 0x8000}, edns: true, do: true, answers: 2},
		{what: "edns1do", flags: rd, opt: &optRecord{size: 4096, version: 1, flags: 0x8000}, rcode: dns.RcodeBadVers, edns: true, do: true},
		{what: "ednstcp, 512", name: "txt-2000.example", typ: dns.TypeTXT, flags: rd, opt: &optRecord{size: 512}, edns: true, answers: 1, cut: true},
		{what: "optlist", flags: rd, opt: &optRecord{size: 4096, options: append(append(append(append(
			option(dns.EDNS0NSID, ""), option(dns.EDNS0SUBNET, "\x00\x01\x00\x00")...), option(dns.EDNS0COOKIE, "12345678")...),
			option(dns.EDNS0EXPIRE, "")...), option(dns.EDNS0PADDING, "\x00\x00\x00\x00")...)}, edns: true, answers: 1},
		{what: "size 0", flags: rd, opt: &optRecord{}, edns: true, answers: 1},
		{what: "opcode and edns", flags: unknownOpcode, opt: plain, rcode: dns.RcodeNotImplemented, edns: true},
		{what: "nxdomain", name: "nxdomain.example", flags: rd, opt: plain, rcode: dns.RcodeNameError, edns: true},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			name, typ := tc.name, tc.typ
			if name == "" {
				name = "www.example"
			}
			if typ == 0 {
				typ = dns.TypeA
			}
			reply := askRaw(t, proto, at, rawQuery(t, name, typ, tc.flags, tc.opt))
			m := new(dns.Msg)
			if err := m.Unpack(reply); err != nil {
				t.Errorf("%s over %s: %v", tc.what, proto, err)
				continue
			}
			opt := m.IsEdns0()
			answers := tc.answers
			if cut := tc.cut && proto == "udp"; cut {
				answers = 0
				if !m.Truncated || len(reply) > dns.MinMsgSize {
					t.Errorf("%s over %s: %d bytes, TC %v", tc.what, proto, len(reply), m.Truncated)
				}
			}
			rcode := m.Rcode
			if opt != nil {
				rcode = opt.ExtendedRcode()&^0xF | m.Rcode&0xF
			}
			switch {
			case rcode != tc.rcode, (opt != nil) != tc.edns, len(m.Answer) != answers, m.Id != 0x1234, !m.Response, m.Zero, m.Authoritative:
				t.Errorf("%s over %s: %v", tc.what, proto, m)
			case opt != nil && (opt.Version() != 0 || opt.Do() != tc.do || opt.Hdr.Ttl&0x7fff != 0 || opt.UDPSize() < dns.MinMsgSize):
				t.Errorf("%s over %s: OPT %v", tc.what, proto, opt)
			}
			if opt == nil {
				continue
			}
			for _, o := range opt.Option {
				if o.Option() != dns.EDNS0EDE {
					t.Errorf("%s over %s: option %d came back", tc.what, proto, o.Option())
				}
			}
		}
	}
}
