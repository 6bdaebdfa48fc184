// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestParseQuery(t *testing.T) {
	tsig := signature(name("key"), "mac")
	sig0 := rawRecord([]byte{0}, TypeSIG, ClassANY, 0, make([]byte, 30))
	hugeLabel := cat([]byte{64}, bytes.Repeat([]byte("x"), 64), []byte{0})
	for _, tt := range []struct {
		name string // and the RFC
		msg  []byte
		err  error
	}{
		{"plain", ask(fRD, 0), nil},
		{"EDNS, RFC 6891", ask(fRD, 1, opt(1232, 0)), nil},
		{"EDNS with options", ask(fRD, 1, opt(1232, 0, option(10, "12345678"), option(3, ""))), nil},
		{"root", cat(head(fRD, 1), name(), u16(TypeNS, ClassIN)), nil},
		{"255-byte name, RFC 1035 §3.1", cat(head(fRD, 1), longName(), u16(TypeA, ClassIN)), nil},
		{"a label may hold any bytes, RFC 2181 §11",
			cat(head(fRD, 1), name("a.b", "\x00\xff\\", "c d"), u16(TypeA, ClassIN)), nil},
		{"class CH", cat(head(fRD, 1), name("version", "bind"), u16(TypeTXT, ClassCH)), nil},
		{"AXFR and RD=0 are policy", cat(head(0, 1), example, u16(TypeAXFR, ClassIN)), nil},
		{"IXFR with its SOA, RFC 1995 §3", cat(head(0, 1, 0, 1), example, u16(TypeIXFR, ClassIN), soa(self, 1, 1)), nil},
		{"unknown type", cat(head(fRD, 1), example, u16(65280, ClassIN)), nil},
		{"Z bit", ask(fRD|fZ, 0), nil},
		{"as many pointers as allowed", slowQuery(maxPointers), nil},
		{"a record after OPT", ask(fRD, 2, opt(512, 0), in(self, TypeA, addr)), nil},
		{"TSIG last, RFC 8945 §5.1", ask(fRD, 2, opt(512, 0), tsig), nil},
		{"SIG(0), RFC 2931", ask(fRD, 1, sig0), nil},
		{"NOTIFY, RFC 1996", cat(head(0x2000, 1), example, u16(TypeSOA, ClassIN)), nil},
		{"UPDATE, RFC 2136", cat(head(0x2800, 1, 0, 1), example, u16(TypeSOA, ClassIN),
			rawRecord(self, TypeA, ClassANY, 0, nil)), nil},

		{"empty", nil, ErrIgnore},
		{"short header", ask(fRD, 0)[:11], ErrIgnore},
		{"a reply", ask(fQR|fRD, 0), ErrIgnore},

		{"header only", head(fRD, 1), ErrFormat},
		{"QDCOUNT 0", head(fRD, 0), ErrFormat},
		{"QDCOUNT 2, RFC 9619", cat(head(fRD, 2), question, question), ErrFormat},
		{"question cut off", ask(fRD, 0)[:firstRecord-1], ErrFormat},
		{"name cut off", ask(fRD, 0)[:HeaderLen+3], ErrFormat},
		{"name of 256 bytes", cat(head(fRD, 1), open("y"), longName(), u16(TypeA, ClassIN)), ErrFormat},
		{"name of 256 bytes in five labels", cat(head(fRD, 1),
			name(strings.Repeat("x", 63), strings.Repeat("x", 63), strings.Repeat("x", 63), strings.Repeat("x", 62)),
			u16(TypeA, ClassIN)), ErrFormat},
		{"label of 64 bytes", cat(head(fRD, 1), hugeLabel, u16(TypeA, ClassIN)), ErrFormat},
		{"extended label type, RFC 6891 §5", cat(head(fRD, 1), []byte{0x41, 1, 2}, name("x"), u16(TypeA, ClassIN)), ErrFormat},
		{"pointer in the question", cat(head(fRD, 1), self, u16(TypeA, ClassIN)), ErrFormat},
		{"pointer ends the question's name", cat(head(fRD, 1), open("www"), ptr(0), u16(TypeA, ClassIN)), ErrFormat},
		{"ARCOUNT is wrong", ask(fRD, 2, opt(512, 0)), ErrFormat},
		{"ANCOUNT is wrong", cat(head(fRD, 1, 1), question), ErrFormat},
		{"every count is wrong", cat(head(fRD, 1, 65535, 65535, 65535), question), ErrFormat},
		{"record cut off in its owner", ask(fRD, 1, []byte{5, 'a'}), ErrFormat},
		{"record cut off in its fixed part", ask(fRD, 1, opt(512, 0)[:9]), ErrFormat},
		{"RDLENGTH past the message", ask(fRD, 1, opt(512, 0, option(3, "x"))[:13]), ErrFormat},
		{"pointer to itself", ask(fRD, 1, in(ptr(firstRecord), TypeA, addr)), ErrFormat},
		{"pointer loop", ask(fRD, 1, in(cat(open("a"), ptr(firstRecord)), TypeA, addr)), ErrFormat},
		{"forward pointer", ask(fRD, 1, in(ptr(firstRecord+2), TypeA, addr)), ErrFormat},
		{"pointer into the header", ask(fRD, 1, in(ptr(4), TypeA, addr)), ErrFormat},
		{"a chain made to be slow", slowQuery(maxPointers + 1), ErrFormat},
		{"pointer makes the name too long", cat(head(fRD, 1, 0, 0, 1), longName(), u16(TypeA, ClassIN),
			in(cat(open("y"), self), TypeA, addr)), ErrFormat},
		{"two OPT, RFC 6891 §6.1.1", ask(fRD, 2, opt(512, 0), opt(512, 0)), ErrFormat},
		{"OPT not owned by the root", ask(fRD, 1, cat(name("a"), opt(512, 0)[1:])), ErrFormat},
		{"OPT in the answer section", cat(head(fRD, 1, 1), question, opt(512, 0)), ErrFormat},
		{"OPT in the authority section", cat(head(fRD, 1, 0, 1), question, opt(512, 0)), ErrFormat},
		{"option past RDLENGTH", ask(fRD, 1, opt(512, 0, u16(10, 9), []byte("12345678"))), ErrFormat},
		{"option's header cut off", ask(fRD, 1, opt(512, 0, u16(10), []byte{0})), ErrFormat},
		{"cookie without a client's part, RFC 7873 §5.2.2", ask(fRD, 1, opt(512, 0, option(10, "1234567"))), ErrFormat},
		{"empty cookie", ask(fRD, 1, opt(512, 0, option(10, ""))), ErrFormat},
		{"server cookie too short", ask(fRD, 1, opt(512, 0, option(10, "123456781234567"))), ErrFormat},
		{"server cookie too long", ask(fRD, 1, opt(512, 0, option(10, strings.Repeat("1", 41)))), ErrFormat},
		{"client cookie", ask(fRD, 1, opt(512, 0, option(10, "12345678"))), nil},
		{"shortest server cookie", ask(fRD, 1, opt(512, 0, option(10, "1234567812345678"))), nil},
		{"longest server cookie", ask(fRD, 1, opt(512, 0, option(10, strings.Repeat("1", 40)))), nil},
		{"two cookies, RFC 7873 §5.2", ask(fRD, 1, opt(512, 0, option(10, "12345678"), option(10, "1"))), nil},
		{"cookie and no question, RFC 7873 §5.4", cat(head(fRD, 0, 0, 0, 1), opt(512, 0, option(10, "12345678"))), ErrCookieQuery},
		{"OPT and no question", cat(head(fRD, 0, 0, 0, 1), opt(512, 0)), ErrFormat},
		{"NOTIFY with a cookie and no question", cat(head(0x2000, 0, 0, 0, 1), opt(512, 0, option(10, "12345678"))), ErrFormat},
		{"malformed cookie and no question", cat(head(fRD, 0, 0, 0, 1), opt(512, 0, option(10, "1234567"))), ErrFormat},
		{"TSIG not last", ask(fRD, 2, tsig, opt(512, 0)), ErrFormat},
		{"a malformed TSIG, RFC 8945 §5.2", ask(fRD, 1, rawRecord(name("key"), TypeTSIG, ClassANY, 0, make([]byte, 30))), ErrFormat},
		{"an empty TSIG", ask(fRD, 1, rawRecord(name("key"), TypeTSIG, ClassANY, 0, nil)), ErrFormat},
		{"two TSIG", ask(fRD, 2, tsig, tsig), ErrFormat},
		{"TSIG in the answer section", cat(head(fRD, 1, 1), question, tsig), ErrFormat},
		{"NOTIFY without question", head(0x2000, 0), ErrFormat},
		{"longer than TCP's length field allows", ask(fRD, 0, make([]byte, 65536)), ErrFormat},

		{"EDNS version 1, RFC 6891 §6.1.3", ask(fRD, 1, opt(512, 1<<16)), ErrVersion},
		{"EDNS version 255 with options of another format", ask(fRD, 1, opt(512, 255<<16, []byte{9})), ErrVersion},
		{"malformed after its version", ask(fRD, 2, opt(512, 1<<16), []byte{0}), ErrFormat},

		{"IQUERY", cat(head(0x0800, 0, 1), in(name("a"), TypeA, addr)), ErrOpcode},
		{"STATUS", cat(head(0x1000, 1), question), ErrOpcode},
		{"opcode 3", cat(head(0x1800, 1), question), ErrOpcode},
		{"DSO, RFC 8490", cat(head(0x3000, 0), u16(1, 0)), ErrOpcode},
		{"opcode 15 with EDNS version 1", cat(head(0x7800, 1, 0, 0, 1), question, opt(512, 1<<16)), ErrOpcode},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, err := ParseQuery(tt.msg)
			if err != tt.err {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == ErrIgnore {
				return
			}
			// Any fault gets a reply that a client can parse.
			b := AppendError(nil, &q, RcodeFormErr)
			m := unpack(t, b)
			if !m.Response || m.Id != 0x1234 || m.Opcode != int(q.Opcode) || len(b) > MaxErrorLen {
				t.Errorf("error reply:\n%v", m)
			}
			if (m.IsEdns0() != nil) != q.EDNS {
				t.Errorf("OPT in the error reply: %v, in the query: %v", m.IsEdns0() != nil, q.EDNS)
			}
			if len(m.Question) == 1 && !SameQuestion(b, tt.msg) && len(tt.msg) > 5 && tt.msg[5] == 1 {
				t.Errorf("the error reply's question is not the query's")
			}
		})
	}
}

// slowQuery returns slowChain as a query.
func slowQuery(n int) []byte {
	msg := slowChain(n)
	msg[2] &^= bitQR
	return msg
}

func TestQueryFields(t *testing.T) {
	msg := cat(head(0x2800|fRD|fAD|fCD, 1, 0, 0, 1), name("WwW", "a.b"), u16(TypeHTTPS, ClassCH), opt(4096, 0x8000))
	q := mustQuery(t, msg)
	if Name(q.Name) != `WwW.a\.b.` || q.Type != TypeHTTPS || q.Class != ClassCH || q.ID != 0x1234 ||
		q.Opcode != OpcodeUpdate || !q.RD || !q.AD || !q.CD || !q.EDNS || q.UDPSize != 4096 || !q.DO || q.Signed {
		t.Errorf("%+v", q)
	}
	if q.QEnd != HeaderLen+len(q.Name)+4 || &q.Msg[0] != &msg[0] || &q.Name[0] != &msg[HeaderLen] {
		t.Error("the query does not alias its message")
	}
	q = mustQuery(t, ask(0, 0))
	if q.RD || q.AD || q.CD || q.EDNS || q.DO || q.UDPSize != 512 {
		t.Errorf("%+v", q)
	}
	if q = mustQuery(t, ask(0, 1, opt(100, 0))); q.UDPSize != 512 {
		t.Errorf("UDPSize %d, want 512, the minimum (RFC 6891 §6.2.3)", q.UDPSize)
	}
	if !mustQuery(t, ask(0, 1, signature(name("k"), ""))).Signed ||
		mustQuery(t, ask(0, 1, rawRecord(name(), TypeSIG, ClassANY, 0, make([]byte, 19)))).Signed {
		t.Error("Signed is wrong")
	}
}

func TestUDPLimit(t *testing.T) {
	for size, want := range map[uint16]int{0: 512, 511: 512, 512: 512, 900: 900, 1232: 1232, 1233: 1232, 65535: 1232} {
		q := mustQuery(t, ask(0, 1, opt(size, 0)))
		if got := q.UDPLimit(); got != want {
			t.Errorf("size %d in OPT: limit %d, want %d", size, got, want)
		}
	}
	q := mustQuery(t, ask(0, 0))
	if got := q.UDPLimit(); got != 512 {
		t.Errorf("without OPT: limit %d, want 512", got)
	}
}

// TestAppendQuery: only question, DO and CD are sent upstream.
func TestAppendQuery(t *testing.T) {
	subnet := option(8, "\x00\x01\x18\x00\xc6\x33\x64")
	for _, tt := range []struct {
		name   string
		msg    []byte
		do, cd bool
	}{
		{"plain", ask(0, 0), false, false},
		{"subnet, cookie, padding, version are not sent", ask(fRD, 1, opt(4096, 0, subnet, option(10, "12345678"), option(12, "\x00"))), false, false},
		{"DO", ask(fRD, 1, opt(4096, 0x8000)), true, false},
		{"CD", ask(fRD|fCD, 0), false, true},
		{"more records", cat(head(fRD, 1, 1, 1), question, in(self, TypeA, addr), soa(self, 1, 1)), false, false},
		{"longest", cat(head(fRD, 1), longName(), u16(TypeA, ClassIN)), false, false},
		{"root", cat(head(fRD, 1), name(), u16(TypeNS, ClassIN)), false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := mustQuery(t, tt.msg)
			b := AppendQuery([]byte("xx"), &q)[2:]
			if len(b)%128 != 0 || len(b) > MaxQueryLen {
				t.Errorf("%d bytes: want a multiple of 128 (RFC 8467 §4.1), at most %d", len(b), MaxQueryLen)
			}
			if !bytes.Equal(b[HeaderLen:q.QEnd], tt.msg[HeaderLen:q.QEnd]) {
				t.Error("the question differs")
			}
			m := unpack(t, b)
			o := m.IsEdns0()
			if m.Id != 0 || m.Response || !m.RecursionDesired || !m.AuthenticatedData || m.CheckingDisabled != tt.cd ||
				len(m.Answer)+len(m.Ns) != 0 || len(m.Extra) != 1 {
				t.Errorf("message:\n%v", m)
			}
			if o == nil || o.UDPSize() != 1232 || o.Do() != tt.do || o.Version() != 0 ||
				len(o.Option) != 2 || o.Option[0].Option() != dns.EDNS0TCPKEEPALIVE || o.Option[1].Option() != dns.EDNS0PADDING {
				t.Errorf("OPT: %v", o)
			}
			if _, err := ParseQuery(b); err != nil {
				t.Error(err)
			}
		})
	}
	// Every length of name is padded to the block, also if no padding is necessary.
	for n := 1; n <= 63; n++ {
		q := mustQuery(t, cat(head(fRD, 1), name(strings.Repeat("a", n), strings.Repeat("b", 50)), u16(TypeA, ClassIN)))
		if b := AppendQuery(nil, &q); len(b) != 128 && len(b) != 256 {
			t.Errorf("label of %d: %d bytes", n, len(b))
		}
	}
}

func TestKey(t *testing.T) {
	key := func(msg []byte) string {
		q := mustQuery(t, msg)
		return string(AppendKey(nil, &q))
	}
	build := func(n []byte, typ, class, flags uint16, do uint32) []byte {
		return cat(head(flags, 1, 0, 0, 1), n, u16(typ, class), opt(512, do))
	}
	base := key(build(example, TypeA, ClassIN, fRD, 0))
	for what, same := range map[string][]byte{
		"case, RFC 4343":       build(name("WWW", "eXample", "COM"), TypeA, ClassIN, fRD, 0),
		"RD, AD and no OPT":    cat(head(fAD, 1), example, u16(TypeA, ClassIN)),
		"UDP size":             cat(head(fRD, 1, 0, 0, 1), example, u16(TypeA, ClassIN), opt(4096, 0)),
		"another ID":           cat([]byte{9, 9}, build(example, TypeA, ClassIN, fRD, 0)[2:]),
		"OPT flags that are Z": build(example, TypeA, ClassIN, fRD, 1),
	} {
		if key(same) != base {
			t.Errorf("%s: the key differs", what)
		}
	}
	for what, other := range map[string][]byte{
		"name":                  build(name("www", "example", "net"), TypeA, ClassIN, fRD, 0),
		"type":                  build(example, TypeAAAA, ClassIN, fRD, 0),
		"class":                 build(example, TypeA, ClassCH, fRD, 0),
		"DO":                    build(example, TypeA, ClassIN, fRD, 0x8000),
		"CD":                    build(example, TypeA, ClassIN, fRD|fCD, 0),
		"labels":                build(name("www.example", "com"), TypeA, ClassIN, fRD, 0),
		"not a case difference": build(name("www", "ex\xc1mple", "com"), TypeA, ClassIN, fRD, 0),
	} {
		if key(other) == base {
			t.Errorf("%s: the same key", what)
		}
	}
	q := mustQuery(t, cat(head(fRD, 1), longName(), u16(TypeA, ClassIN)))
	if n := len(AppendKey(nil, &q)); n != MaxKeyLen {
		t.Errorf("longest key is %d bytes, MaxKeyLen %d", n, MaxKeyLen)
	}
}

func TestSameQuestion(t *testing.T) {
	q := ask(fRD, 0)
	ends := func(n []byte, typ, class uint16) []byte { return cat(head(fQR, 1), n, u16(typ, class)) }
	for _, tt := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"itself", q, true},
		{"a reply with records", reply(0, 1, 0, 0, in(self, TypeA, addr)), true},
		{"another spelling", ends(name("WWW", "EXAMPLE", "com"), TypeA, ClassIN), true},
		{"another name", ends(name("xxx", "example", "com"), TypeA, ClassIN), false},
		{"another split into labels", ends(name("www.example", "com"), TypeA, ClassIN), false},
		{"another type", ends(example, TypeAAAA, ClassIN), false},
		{"another class", ends(example, TypeA, ClassCH), false},
		{"no question", head(fQR, 0), false},
		{"two questions", cat(head(fQR, 2), question, question), false},
		{"a pointer", ends(ptr(HeaderLen), TypeA, ClassIN), false},
		{"cut off", ends(example, TypeA, ClassIN)[:firstRecord-1], false},
		{"short", []byte{1, 2, 3}, false},
	} {
		if got := SameQuestion(q, tt.b); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if got := SameQuestion(tt.b, q); got != tt.want {
			t.Errorf("%s, arguments exchanged: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestID(t *testing.T) {
	msg := ask(0, 0)
	SetID(msg, 0xABCD)
	if ID(msg) != 0xABCD || msg[0] != 0xAB {
		t.Errorf("%x", msg[:2])
	}
}

func TestName(t *testing.T) {
	for _, tt := range []struct {
		wire []byte
		want string
	}{
		{name(), "."},
		{nil, "."},
		{name("www", "Example", "com"), "www.Example.com."},
		{name("a.b", `c\d`), `a\.b.c\\d.`},
		{name("\x00\x1b[0m", "\xff "), `\000\027[0m.\255\032.`},
		{name(`"`, "(;)", "@$"), `\".\(\;\).\@\$.`},
		{[]byte{9, 'a'}, "a."}, // not well-formed
	} {
		if got := Name(tt.wire); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.wire, got, tt.want)
		}
	}
	if TypeName(TypeHTTPS) != "HTTPS" || TypeName(65280) != "TYPE65280" {
		t.Errorf("%s %s", TypeName(TypeHTTPS), TypeName(65280))
	}
	for rcode, want := range map[uint16]string{0: "NOERROR", 2: "SERVFAIL", 11: "DSOTYPENI", 16: "BADVERS", 23: "BADCOOKIE", 99: "RCODE99"} {
		if got := RcodeName(rcode); got != want {
			t.Errorf("rcode %d is %s, want %s", rcode, got, want)
		}
	}
	for typ, s := range typeNames {
		if m, ok := dns.TypeToString[typ]; ok && m != s {
			t.Errorf("type %d is %s, want %s", typ, s, m)
		}
	}
}

// TestTrailingBytes: bytes after a query's last record are discarded.
func TestTrailingBytes(t *testing.T) {
	tsig := rawRecord(name("k"), TypeTSIG, ClassANY, 0, cat(name("h"), make([]byte, 16)))
	for _, msg := range [][]byte{ask(fRD, 0), ask(fRD, 1, opt(4096, 0x8000)), ask(fRD, 2, opt(512, 0), tsig), ask(fRD, 1, opt(512, 1<<16))} {
		want, wantErr := ParseQuery(slices.Clone(msg))
		for _, extra := range [][]byte{{0}, opt(512, 0), tsig, msg, bytes.Repeat([]byte{0xFF}, 500)} {
			got, err := ParseQuery(cat(msg, extra))
			if err != wantErr || !reflect.DeepEqual(got, want) {
				t.Errorf("%d bytes after %x: %+v, %v, want %+v, %v", len(extra), msg, got, err, want, wantErr)
			}
		}
	}
}

// TestAppendWithoutOPT: the query stays the same except for its OPT record.
func TestAppendWithoutOPT(t *testing.T) {
	for _, do := range []bool{false, true} {
		m := new(dns.Msg).SetQuestion("www.example.", dns.TypeAAAA)
		m.CheckingDisabled = true
		m.SetEdns0(1232, do)
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		q := mustQuery(t, packed)
		query := AppendQuery(nil, &q)
		if WantsDNSSEC(query) != do {
			t.Errorf("DO %v: WantsDNSSEC reports %v", do, !do)
		}
		bare, ok := AppendWithoutOPT([]byte("x"), query)
		if !ok || bare[0] != 'x' {
			t.Fatalf("%v, %x", ok, bare)
		}
		before, after := unpack(t, query), unpack(t, bare[1:])
		before.Extra = nil
		if before.String() != after.String() {
			t.Errorf("want\n%v\ngot\n%v", before, after)
		}
		for _, other := range [][]byte{bare[1:], nil, query[:HeaderLen], query[:q.QEnd], query[:q.QEnd+optLen-1]} {
			if _, ok := AppendWithoutOPT(nil, other); ok || WantsDNSSEC(other) {
				t.Errorf("%x: taken as a query with OPT", other)
			}
		}
	}
}
