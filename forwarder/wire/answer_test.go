// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miekg/dns"
)

func TestAppendError(t *testing.T) {
	ede := EDE{EDENetworkError, "9.9.9.9:853: connection refused"}
	plain := mustQuery(t, ask(fRD|fCD|fAD, 0))
	edns := mustQuery(t, ask(0, 1, opt(4096, 0x8000)))
	for _, tt := range []struct {
		name  string
		q     *Query
		rcode uint16
		ede   []EDE
		want  int // the client's rcode
		opts  int
	}{
		{"SERVFAIL", &plain, RcodeServFail, []EDE{ede}, dns.RcodeServerFailure, 0},
		{"with EDE, RFC 8914", &edns, RcodeServFail, []EDE{ede, {Code: EDENotReady}}, dns.RcodeServerFailure, 2},
		{"NODATA by local policy", &edns, RcodeSuccess, nil, dns.RcodeSuccess, 0},
		{"BADVERS, RFC 6891 §6.1.3", &edns, RcodeBadVers, nil, dns.RcodeBadVers, 0},
		{"no OPT for an extended rcode", &plain, RcodeBadVers, nil, dns.RcodeServerFailure, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := AppendError([]byte("xx"), tt.q, tt.rcode, tt.ede...)[2:]
			m := unpack(t, b)
			if !m.Response || m.Authoritative || m.Truncated || m.AuthenticatedData || m.Zero || !m.RecursionAvailable ||
				m.Id != 0x1234 || m.RecursionDesired != tt.q.RD || m.CheckingDisabled != tt.q.CD || m.Rcode != tt.want {
				t.Errorf("%v", m)
			}
			if !SameQuestion(b, tt.q.Msg) {
				t.Error("the question differs")
			}
			o := m.IsEdns0()
			if (o != nil) != tt.q.EDNS {
				t.Fatalf("OPT: %v", o)
			}
			if o != nil && (o.UDPSize() != UDPSize || o.Version() != 0 || !o.Do() || len(o.Option) != tt.opts) {
				t.Errorf("OPT: %v", o)
			}
			if tt.opts > 0 {
				if e := o.Option[0].(*dns.EDNS0_EDE); e.InfoCode != ede.Code || e.ExtraText != ede.Text {
					t.Errorf("EDE: %v", e)
				}
			}
		})
	}
	// A message that could not be parsed gets a header too, RFC 1035 §4.1.1.
	q, err := ParseQuery(head(0x7800|fRD, 9, 9))
	if b := AppendError(nil, &q, RcodeNotImp); err != ErrOpcode || !bytes.Equal(b, head(0xF800|4, 0)) {
		t.Errorf("%v, %x", err, b)
	}
}

// TestBadKey: a signed query gets the error BADKEY in the form of RFC 8945 §5.3.2.
func TestBadKey(t *testing.T) {
	for _, tc := range []struct {
		what string
		msg  []byte
		key  string
		opt  bool
	}{
		{"plain", ask(fRD, 1, signature(name("key"), "mac")), "key.", false},
		{"with EDNS", ask(fRD, 2, opt(1232, 0), signature(name("a", "key"), "mac")), "a.key.", true},
		{"a compressed key name", ask(fRD, 1, signature(cat(open("key"), ptr(HeaderLen+4)), "mac")), "key.example.com.", false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			q := mustQuery(t, tc.msg)
			m := unpack(t, AppendError([]byte("room"), &q, RcodeNotAuth, EDE{EDENotSupported, "why"})[4:])
			sig := m.IsTsig()
			if m.Rcode != dns.RcodeNotAuth || (m.IsEdns0() != nil) != tc.opt || sig == nil {
				t.Fatalf("got %v", m)
			}
			if sig.Hdr.Name != tc.key || sig.Algorithm != dns.HmacSHA256 || sig.TimeSigned != 0x12345678 || sig.Fudge != 300 ||
				sig.MACSize != 0 || sig.OrigId != 0x1234 || sig.Error != dns.RcodeBadKey || sig.OtherLen != 0 {
				t.Errorf("got %v", sig)
			}
		})
	}
	// Other errors have no TSIG, nor has a reply that would be too long.
	q := mustQuery(t, ask(fRD, 1, signature(name("key"), "mac")))
	if m := unpack(t, AppendError(nil, &q, RcodeRefused)); m.IsTsig() != nil {
		t.Errorf("got %v", m)
	}
	q = mustQuery(t, cat(head(fRD, 1, 0, 0, 1), longName(), u16(TypeA, ClassIN), signature(longName(), "")))
	if b := AppendError(nil, &q, RcodeNotAuth); len(b) > MaxErrorLen || unpack(t, b).Rcode != dns.RcodeNotAuth {
		t.Errorf("%d bytes", len(b))
	}
}

// TestAppendErrorFitsEveryClient tests the longest question with too many EDEs.
func TestAppendErrorFitsEveryClient(t *testing.T) {
	q := mustQuery(t, cat(head(fRD, 1, 0, 0, 1), longName(), u16(TypeA, ClassIN), opt(512, 0)))
	long := EDE{1, "x" + strings.Repeat("é", 300)}
	for n, want := range map[int]struct{ options, text int }{1: {1, 199}, 2: {2, 0}, 38: {38, 0}, 39: {0, 0}} {
		ede := make([]EDE, n)
		for i := range ede {
			ede[i] = long
		}
		b := AppendError(nil, &q, RcodeServFail, ede...)
		o := unpack(t, b).IsEdns0()
		if len(b) > MaxErrorLen || len(o.Option) != want.options {
			t.Errorf("%d EDEs: %d bytes with %d options", n, len(b), len(o.Option))
		}
		if len(o.Option) > 0 {
			text := o.Option[0].(*dns.EDNS0_EDE).ExtraText
			if len(text) != want.text || !utf8.ValidString(text) {
				t.Errorf("%d EDEs: text %q", n, text)
			}
		}
	}
}

func TestAppendReplyHeader(t *testing.T) {
	a := in(self, TypeA, addr)
	for _, tt := range []struct {
		name    string
		q, r    []byte
		flags   uint16 // of the result
		options int    // -1: no OPT
	}{
		{"plain", ask(fRD, 0), reply(0, 1, 0, 0, a), fQR | fRD | fRA, -1},
		{"AA and Z cleared, RA set", ask(fRD, 0), cat(head(fQR|fAA|fZ, 1, 1), question, a), fQR | fRD | fRA, -1},
		{"RD and CD as sent", ask(fCD, 0), reply(0, 1, 0, 0, a), fQR | fRA | fCD, -1},
		{"no AD for clients that do not understand it, RFC 6840 §5.8", ask(fRD, 0), reply(fAD, 1, 0, 0, a), fQR | fRD | fRA, -1},
		{"AD asked for", ask(fRD|fAD, 0), reply(fAD, 1, 0, 0, a), fQR | fRD | fRA | fAD, -1},
		{"AD with DO", ask(fRD, 1, opt(512, 0x8000)), reply(fAD, 1, 0, 0, a), fQR | fRD | fRA | fAD, 0},
		{"AD only if true", ask(fRD|fAD, 0), reply(0, 1, 0, 0, a), fQR | fRD | fRA, -1},
		{"an upstream's TC stays", ask(fRD, 0), reply(fTC, 1, 0, 0, a), fQR | fRD | fRA | fTC, -1},
		{"rcode", ask(fRD, 0), reply(3, 0, 0, 0), fQR | fRD | fRA | 3, -1},
		{"extended rcode in OPT", ask(fRD, 1, opt(512, 0)), reply(0, 0, 0, 1, opt(512, 1<<24)), fQR | fRD | fRA, 0},
		{"extended rcode without OPT", ask(fRD, 0), reply(0, 0, 0, 1, opt(512, 1<<24)), fQR | fRD | fRA | 2, -1},
		{"OPT hop by hop: not sent without one in the query", ask(fRD, 0), reply(0, 1, 0, 1, a, opt(512, 0)), fQR | fRD | fRA, -1},
		{"OPT hop by hop: only EDE is passed on", ask(fRD, 1, opt(512, 0)),
			reply(0, 1, 0, 1, a, opt(4096, 0, option(3, "nsid"), option(15, "\x00\x04"), option(12, "\x00"))), fQR | fRD | fRA, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, r := mustQuery(t, tt.q), mustReply(t, tt.r)
			b := AppendReply(nil, &q, &r, 0, 512)
			if flags := uint16(b[2])<<8 | uint16(b[3]); flags != tt.flags || ID(b) != 0x1234 {
				t.Errorf("flags %04x, want %04x; ID %x", flags, tt.flags, ID(b))
			}
			m := unpack(t, b)
			options := -1
			if o := m.IsEdns0(); o != nil {
				options = len(o.Option)
				if o.UDPSize() != UDPSize || o.Do() != q.DO || o.ExtendedRcode() != int(r.Rcode)&^0xF {
					t.Errorf("OPT %v", o)
				}
			}
			if options != tt.options {
				t.Errorf("%d options, want %d", options, tt.options)
			}
			sameRecords(t, unpack(t, tt.r), m)
		})
	}
}

// TestSpelling: the client's spelling is returned, also in compressed names, although the
// reply is shared.
func TestSpelling(t *testing.T) {
	r := mustReply(t, reply(0, 1, 0, 0, in(self, TypeA, addr)))
	q := mustQuery(t, cat(head(fRD, 1), name("wWw", "eXaMpLe", "CoM"), u16(TypeA, ClassIN)))
	q.ID = 7
	b := AppendReply(nil, &q, &r, 0, 512)
	m := unpack(t, b)
	if m.Id != 7 || m.Question[0].Name != "wWw.eXaMpLe.CoM." || m.Answer[0].Header().Name != "wWw.eXaMpLe.CoM." {
		t.Errorf("%v", m)
	}
	if Name(r.Msg[HeaderLen:r.QEnd]) == m.Question[0].Name {
		t.Error("the shared reply was changed")
	}
}

func TestTTLsCountDown(t *testing.T) {
	r := mustReply(t, reply(0, 1, 1, 2,
		rawRecord(self, TypeA, ClassIN, 300, addr), soa(name(), 100, 50),
		opt(512, 0x12345678), rawRecord(self, TypeA, ClassIN, 7, addr)))
	q := mustQuery(t, ask(fRD, 1, opt(512, 0)))
	for age, want := range map[uint32][3]uint32{0: {300, 100, 7}, 5: {295, 95, 2}, 100: {200, 0, 0}, 1<<32 - 1: {0, 0, 0}} {
		m := unpack(t, AppendReply(nil, &q, &r, age, 0))
		got := [3]uint32{m.Answer[0].Header().Ttl, m.Ns[0].Header().Ttl, m.Extra[0].Header().Ttl}
		if got != want {
			t.Errorf("age %d: %v, want %v", age, got, want)
		}
	}
}

// TestStaleTTLs: whatever the TTLs and the age, all TTLs of a stale reply are 30 seconds
// (RFC 8767 §4), and OPT keeps its flags.
func TestStaleTTLs(t *testing.T) {
	r := mustReply(t, reply(0, 1, 1, 1,
		rawRecord(self, TypeA, ClassIN, 300, addr), soa(name(), 100, 50), rawRecord(self, TypeA, ClassIN, 7, addr)))
	if r.Stale {
		t.Error("an upstream's reply is stale")
	}
	r.Stale = true
	q := mustQuery(t, ask(fRD, 1, opt(512, 0x8000)))
	for _, age := range []uint32{0, 100, 1<<32 - 1} {
		m := unpack(t, AppendReply(nil, &q, &r, age, 0, EDE{EDEStaleAnswer, ""}))
		for _, rr := range []dns.RR{m.Answer[0], m.Ns[0], m.Extra[0]} {
			if got := rr.Header().Ttl; got != StaleTTL {
				t.Errorf("age %d: TTL %d, want %d", age, got, StaleTTL)
			}
		}
		if o := m.IsEdns0(); o == nil || !o.Do() || o.Version() != 0 {
			t.Errorf("OPT is %v", o)
		}
	}
}

func TestTruncation(t *testing.T) {
	txt := func(n int) []byte { return in(self, TypeTXT, make([]byte, n)) }
	plain := mustQuery(t, ask(fRD, 0))
	edns := mustQuery(t, ask(fRD, 1, opt(4096, 0x8000)))
	room := 512 - firstRecord - 12 // for TXT data in a plain reply of 512 bytes
	for _, tt := range []struct {
		name  string
		q     *Query
		size  int // of TXT data
		limit int
		full  bool
	}{
		{"fits to the byte", &plain, room, 512, true},
		{"a byte too long", &plain, room + 1, 512, false},
		{"a limit below 512 is 512, RFC 6891 §6.2.3", &plain, room, 100, true},
		{"OPT counts", &edns, room, 512, false},
		{"OPT fits to the byte", &edns, room - optLen, 512, true},
		{"to 1232", &edns, 1232 - firstRecord - 12 - optLen, 1232, true},
		{"over 1232", &edns, 1232 - firstRecord - 12 - optLen + 1, 1232, false},
		{"TCP has no such limit", &edns, 60000, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := mustReply(t, reply(fAD, 1, 0, 0, txt(tt.size)))
			b := AppendReply([]byte("xx"), tt.q, &r, 1, tt.limit)[2:]
			m := unpack(t, b)
			if limit := max(tt.limit, 512); tt.limit > 0 && len(b) > limit {
				t.Errorf("%d bytes, over %d", len(b), limit)
			}
			truncated := b[2]&bitTC != 0
			if truncated == tt.full {
				t.Fatalf("truncated: %v", truncated)
			}
			if truncated {
				an, ns := b[6:8], b[8:10]
				if !bytes.Equal(an, []byte{0, 0}) || !bytes.Equal(ns, []byte{0, 0}) || !SameQuestion(b, tt.q.Msg) ||
					(m.IsEdns0() != nil) != tt.q.EDNS || len(m.Answer) != 0 {
					t.Errorf("truncated reply:\n%v", m)
				}
			}
		})
	}
}

// TestEDEsAreDropped: EDE texts are left out first, then EDEs, and only then is a reply
// truncated.
func TestEDEsAreDropped(t *testing.T) {
	q := mustQuery(t, ask(fRD, 1, opt(512, 0)))
	own := EDE{EDEStaleAnswer, "from a cache"}
	for _, tt := range []struct {
		spare         int // bytes of 512 left after records and OPT
		options, text int
		tc            bool
	}{
		{2*6 + 12 + 5, 2, 12, false},
		{2*6 + 12 + 5 - 1, 2, 0, false},
		{2 * 6, 2, 0, false},
		{2*6 - 1, 0, 0, false},
		{0, 0, 0, false},
		{-1, 0, 0, true},
	} {
		size := 512 - firstRecord - 12 - optLen - tt.spare
		r := mustReply(t, reply(0, 1, 0, 1, in(self, 65280, make([]byte, size)), opt(512, 0, option(15, "\x00\x04theirs"[:7]))))
		b := AppendReply(nil, &q, &r, 0, 512, own)
		m := unpack(t, b)
		o := m.IsEdns0()
		if len(b) > 512 || m.Truncated != tt.tc || o == nil || len(o.Option) != tt.options {
			t.Errorf("%d to spare: %d bytes, TC %v, OPT %v", tt.spare, len(b), m.Truncated, o)
			continue
		}
		if tt.options > 0 {
			if e := o.Option[0].(*dns.EDNS0_EDE); e.InfoCode != EDEStaleAnswer || len(e.ExtraText) != tt.text {
				t.Errorf("%d to spare: %v", tt.spare, e)
			}
		}
	}
}

// TestLongestMessages tests replies of 65,535 bytes over TCP, with OPT and without.
func TestLongestMessages(t *testing.T) {
	q := mustQuery(t, ask(fRD, 1, opt(512, 0)))
	size := MaxMessage - firstRecord - 12
	for _, tt := range []struct {
		size, want int
		opt        bool
	}{
		{size - optLen, MaxMessage, true},
		{size - optLen + 1, MaxMessage - optLen + 1, false},
		{size, MaxMessage, false},
	} {
		r := mustReply(t, reply(0, 1, 0, 0, in(self, 65280, make([]byte, tt.size))))
		b := AppendReply(nil, &q, &r, 0, 0, EDE{Text: "no room"})
		if m := unpack(t, b); len(b) != tt.want || m.Truncated || len(m.Answer) != 1 || (m.IsEdns0() != nil) != tt.opt {
			t.Errorf("%d bytes, OPT %v", len(b), m.IsEdns0())
		}
	}
	// An extended rcode needs OPT, so the reply has no records.
	r := mustReply(t, reply(0, 1, 0, 0, in(self, 65280, make([]byte, size))))
	r.Rcode = RcodeBadCookie
	if m := unpack(t, AppendReply(nil, &q, &r, 0, 0)); m.Rcode != dns.RcodeBadCookie || !m.Truncated || len(m.Answer) != 0 {
		t.Errorf("%v", m)
	}
}

// TestOtherQuestion: a reply whose question has another length is not used.
func TestOtherQuestion(t *testing.T) {
	q := mustQuery(t, cat(head(fRD, 1), name("other"), u16(TypeA, ClassIN)))
	r := mustReply(t, reply(0, 1, 0, 0, in(self, TypeA, addr)))
	b := AppendReply(nil, &q, &r, 0, 0)
	if m := unpack(t, b); m.Rcode != dns.RcodeServerFailure || len(m.Answer) != 0 || !SameQuestion(b, q.Msg) {
		t.Errorf("%v", m)
	}
}
