// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// FuzzParseQuery compares ParseQuery with two libraries: if both accept a query, and it
// breaks none of the rules that they do not check, ParseQuery has to accept it, and all
// three find the same question and the same OPT.
func FuzzParseQuery(f *testing.F) {
	f.Fuzz(checkQuery)
}

// TestLongMessages runs the fuzz targets' checks on messages of 65,535 bytes. As seeds these
// would make the fuzzing engine spend its time on minimizing them.
func TestLongMessages(t *testing.T) {
	for _, msg := range longSeeds(fRD) {
		checkQuery(t, msg)
	}
	for _, msg := range longSeeds(fQR) {
		checkReply(t, msg)
	}
}

func checkQuery(t *testing.T, msg []byte) {
	orig := bytes.Clone(msg)
	q, err := ParseQuery(msg)
	if !errors.Is(err, ErrIgnore) {
		checkErrorReply(t, &q, err)
	}
	if err == nil {
		checkAccepted(t, &q)
	}
	checkOracles(t, msg, &q, err)
	if !bytes.Equal(msg, orig) {
		t.Error("the message was changed")
	}
}

// checkErrorReply checks that the error reply to any query is well-formed.
func checkErrorReply(t *testing.T, q *Query, err error) {
	for _, rcode := range []uint16{RcodeSuccess, RcodeFormErr, RcodeNotAuth, RcodeBadVers} {
		b := AppendError(nil, q, rcode, EDE{EDEOther, "text"})
		if len(b) > MaxErrorLen {
			t.Errorf("error reply of %d bytes", len(b))
		}
		m := new(dns.Msg)
		if e := m.Unpack(b); e != nil {
			t.Fatalf("error reply %x: %v", b, e)
		}
		if err == nil && !SameQuestion(b, q.Msg) {
			t.Error("error reply to another question")
		}
	}
}

// checkAccepted checks the upstream query and the cache key of an accepted query.
func checkAccepted(t *testing.T, q *Query) {
	up := AppendQuery(nil, q)
	again, err := ParseQuery(up)
	if err != nil || !SameQuestion(up, q.Msg) || again.DO != q.DO || again.CD != q.CD || len(up) > MaxQueryLen || len(up)%128 != 0 {
		t.Fatalf("upstream query %x: %v", up, err)
	}
	if !bytes.Equal(AppendKey(nil, q), AppendKey(nil, &again)) {
		t.Error("the upstream query has another key")
	}
}

// checkOracles compares with dnsmessage and miekg/dns. It ignores messages with known
// differences, in which ParseQuery follows the RFCs. Both libraries accept missing records
// (dnsmessage reads an A with RDLENGTH 0 as one of four bytes, miekg/dns corrects wrong
// counts), pointers that do not refer to an earlier name (RFC 1035 §4.1.4),
// pointers in the question, OPT in any section, several OPT or one with a name (RFC 6891
// §6.1.1), and TSIG before other records (RFC 8945 §5.1).
func checkOracles(t *testing.T, msg []byte, q *Query, err error) {
	var x dnsmessage.Message
	m := new(dns.Msg)
	if x.Unpack(msg) != nil || m.Unpack(msg) != nil || m.Response || len(msg) > MaxMessage {
		return
	}
	if m.Opcode != dns.OpcodeQuery && m.Opcode != dns.OpcodeNotify && m.Opcode != dns.OpcodeUpdate {
		if err != ErrOpcode {
			t.Errorf("opcode %d: %v", m.Opcode, err)
		}
		return
	}
	o := m.IsEdns0()
	switch {
	case len(x.Questions) != 1 || len(m.Question) != 1:
		version := o != nil && o.Version() != 0
		if err != ErrFormat && (len(m.Question) != 0 || err != ErrCookieQuery && (err != ErrVersion || !version)) {
			t.Errorf("%d questions: %v", len(x.Questions), err)
		}
		return
	case lastRecordEnd(msg) < 0:
		if err != ErrFormat {
			t.Errorf("records are missing: %v", err)
		}
		return
	case err == ErrFormat && m.IsTsig() != nil: // dnsmessage does not parse its data
		return
	case err == ErrFormat && hasBadCookie(m): // both pass it on
		return
	case !optAndTSIGInPlace(m), err == ErrFormat && mayHavePointer(msg):
		return
	case o != nil && o.Version() != 0:
		if err != ErrVersion {
			t.Errorf("EDNS version %d: %v", o.Version(), err)
		}
	case err != nil:
		t.Fatalf("both libraries accept the query: %v\n%v", err, m)
	}
	checkSame(t, m, q)
}

// lastRecordEnd returns the offset after the last record, or -1 if not all records are
// present that the counts announce.
func lastRecordEnd(msg []byte) int {
	off, n := HeaderLen, 0
	for i := range 4 {
		n += int(binary.BigEndian.Uint16(msg[4+2*i:]))
	}
	for i := range n {
		_, next, err := dns.UnpackDomainName(msg, off)
		if err != nil {
			return -1
		}
		if off = next + 4; i > 0 { // one question, then records
			if off += 6; off > len(msg) {
				return -1
			}
			off += int(binary.BigEndian.Uint16(msg[off-2:]))
		}
		if off > len(msg) {
			return -1
		}
	}
	return off
}

// hasBadCookie reports whether a message has a COOKIE option of invalid length.
func hasBadCookie(m *dns.Msg) bool {
	o := m.IsEdns0()
	return o != nil && slices.ContainsFunc(o.Option, func(opt dns.EDNS0) bool {
		c, ok := opt.(*dns.EDNS0_COOKIE)
		n := 0
		if ok {
			n = len(c.Cookie) / 2
		}
		return ok && n != 8 && (n < 16 || n > 40)
	})
}

func mayHavePointer(msg []byte) bool {
	return slices.ContainsFunc(msg, func(b byte) bool { return b >= 0xC0 })
}

func optAndTSIGInPlace(m *dns.Msg) bool {
	for _, rr := range append(append([]dns.RR(nil), m.Answer...), m.Ns...) {
		if t := rr.Header().Rrtype; t == dns.TypeOPT || t == dns.TypeTSIG {
			return false
		}
	}
	opts := 0
	for i, rr := range m.Extra {
		switch h := rr.Header(); h.Rrtype {
		case dns.TypeOPT:
			if opts++; opts > 1 || h.Name != "." {
				return false
			}
		case dns.TypeTSIG:
			if i != len(m.Extra)-1 {
				return false
			}
		}
	}
	return true
}

// checkSame compares the result of miekg/dns with that of ParseQuery.
func checkSame(t *testing.T, m *dns.Msg, q *Query) {
	var buf [256]byte
	n, err := dns.PackDomainName(m.Question[0].Name, buf[:], 0, nil, false)
	if err != nil || !bytes.Equal(buf[:n], q.Name) {
		t.Errorf("name %q, want %q (%v)", q.Name, buf[:n], err)
	}
	if q.Type != m.Question[0].Qtype || q.Class != m.Question[0].Qclass || q.ID != m.Id || int(q.Opcode) != m.Opcode ||
		q.RD != m.RecursionDesired || q.AD != m.AuthenticatedData || q.CD != m.CheckingDisabled {
		t.Errorf("%+v, want\n%v", q, m)
	}
	o := m.IsEdns0()
	if (o != nil) != q.EDNS {
		t.Fatalf("EDNS %v, want %v", q.EDNS, o != nil)
	}
	if o != nil && (o.Do() != q.DO || o.Version() != q.Version || max(o.UDPSize(), 512) != q.UDPSize) {
		t.Errorf("%+v, want %v", q, o)
	}
}

// FuzzParseReply: for an accepted reply, a client's library reads the same records from the
// message that is sent as from the one that was received, except for TTLs. And the result
// of Reply.Parse does not depend on the previous content of the Reply.
func FuzzParseReply(f *testing.F) {
	f.Fuzz(checkReply)
}

func checkReply(t *testing.T, msg []byte) {
	timeout, found := Keepalive(msg)
	r, err := ParseReply(bytes.Clone(msg))
	used := Reply{Msg: msg, QEnd: 99, TTLs: []uint16{7, 8, 9}, Rcode: 5, TTL: 6, Negative: true, Stale: true, TC: true, AD: true, EDE: []EDE{{Code: 4}}}
	if e := used.Parse(bytes.Clone(msg)); (e == nil) != (err == nil) {
		t.Fatalf("into a used Reply: %v, into a new one: %v", e, err)
	}
	if err != nil {
		return
	}
	checkRebuilt(t, &r)
	if len(r.TTLs) == 0 {
		r.TTLs, used.TTLs = nil, nil // nil and empty are equal here
	}
	if !reflect.DeepEqual(used, r) {
		t.Fatalf("into a used Reply: %+v, into a new one: %+v", used, r)
	}
	q := queryFor(t, msg, r.QEnd)
	r.Rotate = false // to compare the order
	out := AppendReply(nil, &q, &r, 0, 0)
	again, err := ParseReply(bytes.Clone(out))
	if err != nil {
		t.Fatalf("ParseReply does not accept the reply that was sent: %v\n%x\n%x", err, msg, out)
	}
	if len(r.Msg)+optLen > MaxMessage {
		return // OPT does not fit, or in place of additional records
	}
	if !slices.Equal(again.TTLs, r.TTLs) || again.TTL != r.TTL || again.Negative != r.Negative ||
		again.Rcode != r.Rcode || again.TC != r.TC || again.AD != r.AD {
		t.Errorf("the replies differ: %+v, %+v", r, again)
	}
	want, got := new(dns.Msg), new(dns.Msg)
	if want.Unpack(msg) != nil {
		return // invalid data of a type that is opaque for ParseReply
	}
	checkKeepalive(t, want, timeout, found)
	if err := got.Unpack(out); err != nil {
		t.Fatalf("miekg/dns accepts the received message but not the sent one: %v\n%x\n%x", err, msg, out)
	}
	sameRecords(t, want, got)
}

// queryFor returns a query with EDNS for the question of a reply.
func queryFor(t *testing.T, reply []byte, qend int) Query {
	q, err := ParseQuery(cat(head(fRD|fAD, 1, 0, 0, 1), reply[HeaderLen:qend], opt(1232, 0)))
	if err != nil {
		t.Fatalf("the question of an accepted reply: %v", err)
	}
	return q
}

// FuzzAppendReply: a reply with any records, for any client and age, stays within the limit
// and is well-formed. If truncated it has TC=1 and no records.
func FuzzAppendReply(f *testing.F) {
	long := bytes.Repeat(in(self, TypeA, addr), 80)
	f.Add(ask(fRD, 0), in(self, TypeA, addr), uint16(1), uint16(0), uint16(0), uint32(10), uint16(512))
	f.Add(ask(fRD, 1, opt(1232, 0x8000)), long, uint16(80), uint16(0), uint16(0), uint32(299), uint16(1232))
	f.Add(ask(fRD, 1, opt(512, 0)), long, uint16(20), uint16(30), uint16(30), uint32(1<<32-1), uint16(600))
	f.Add(ask(fRD, 1, opt(512, 0)), cat(soa(name(), 600, 400), opt(512, 0, option(15, "\x00\x01text")), in(self, TypeMX, u16(1), self)),
		uint16(0), uint16(1), uint16(2), uint32(5), uint16(0))
	f.Fuzz(func(t *testing.T, query, records []byte, an, ns, ar uint16, age uint32, limit uint16) {
		q, err := ParseQuery(query)
		if err != nil {
			return
		}
		r, err := ParseReply(cat(head(fQR|fAD, 1, an, ns, ar), query[HeaderLen:q.QEnd], records))
		if err != nil {
			return
		}
		before := bytes.Clone(r.Msg)
		out := AppendReply([]byte{1, 2, 3}, &q, &r, age, int(limit), EDE{EDEOther, "own text"})[3:]
		most := MaxMessage
		if limit > 0 {
			most = max(int(limit), MinUDPSize)
		}
		if len(out) > most {
			t.Errorf("%d bytes, limit %d", len(out), limit)
		}
		if !bytes.Equal(before, r.Msg) {
			t.Error("the shared reply was changed")
		}
		if !bytes.Equal(out[HeaderLen:q.QEnd], query[HeaderLen:q.QEnd]) || ID(out) != q.ID {
			t.Error("not the client's question and ID")
		}
		again, err := ParseReply(bytes.Clone(out))
		if q.Opcode != OpcodeQuery {
			return // ParseReply accepts no other
		}
		if err != nil {
			t.Fatalf("%v: %x", err, out)
		}
		switch {
		case len(again.TTLs) == len(r.TTLs) && !r.Rotate:
			checkAges(t, before, again.Msg, r.TTLs, age)
		case !again.TC && binary.BigEndian.Uint16(out[6:]) == binary.BigEndian.Uint16(before[6:]):
			if n := len(again.TTLs); !slices.Equal(again.TTLs, r.TTLs[:n]) {
				t.Errorf("not the first %d records: %x", n, out)
			}
		case !again.TC || len(again.TTLs) != 0 || binary.BigEndian.Uint32(out[6:]) != 0:
			t.Errorf("truncated without TC: %x", out)
		}
		r.Stale = true
		checkStale(t, AppendReply(nil, &q, &r, age, int(limit)))
	})
}

// checkStale checks that a stale reply is well-formed, and that every TTL in it is StaleTTL,
// except those that ParseReply reduces.
func checkStale(t *testing.T, out []byte) {
	r, err := ParseReply(out)
	if err != nil {
		t.Fatalf("stale: %v: %x", err, out)
	}
	for _, off := range r.TTLs {
		typ, ttl := binary.BigEndian.Uint16(r.Msg[off-4:]), binary.BigEndian.Uint32(r.Msg[off:])
		if ttl != StaleTTL && (typ != TypeSOA || ttl > StaleTTL) {
			t.Errorf("stale: TTL %d", ttl)
		}
	}
}

// checkAges compares TTLs before and after.
func checkAges(t *testing.T, before, after []byte, ttls []uint16, age uint32) {
	for _, off := range ttls {
		a, b := binary.BigEndian.Uint32(before[off:]), binary.BigEndian.Uint32(after[off:])
		if b != a-min(a, age) {
			t.Errorf("TTL %d at age %d is %d", a, age, b)
		}
	}
}

// checkKeepalive compares the keepalive timeout with that of miekg/dns, which reads an option
// without a value as 0.
func checkKeepalive(t *testing.T, m *dns.Msg, timeout time.Duration, found bool) {
	var want []time.Duration
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if k, ok := o.(*dns.EDNS0_TCP_KEEPALIVE); ok {
				want = append(want, time.Duration(k.Timeout)*100*time.Millisecond)
			}
		}
	}
	if found && !slices.Contains(want, timeout) || !found && slices.Max(append(want, 0)) != 0 {
		t.Errorf("keepalive of %v (%v), want one of %v", timeout, found, want)
	}
}
