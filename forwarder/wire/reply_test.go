// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestParseReplyRefuses(t *testing.T) {
	a := in(self, TypeA, addr)
	for _, tt := range []struct {
		name string
		msg  []byte
		err  error
	}{
		{"empty", nil, errReplyShort},
		{"short header", reply(0, 0, 0, 0)[:11], errReplyShort},
		{"longer than TCP's length field allows", reply(0, 0, 0, 0, make([]byte, 65536)), errReplyLong},
		{"a query", ask(fRD, 0), errReplyQR},
		{"opcode NOTIFY", reply(0x2000, 0, 0, 0), errReplyOpcode},
		{"no question", head(fQR, 0), errReplyQuestion},
		{"two questions", cat(head(fQR, 2), question, question), errReplyQuestion},
		{"pointer in the question", cat(head(fQR, 1), self, u16(TypeA, ClassIN)), errReplyQuestion},
		{"ANCOUNT is wrong", reply(0, 2, 0, 0, a), errNameEnd},
		{"counts are wrong by the maximum", reply(0, 65535, 65535, 65535, a), errNameEnd},
		{"cut off in its fixed part", reply(0, 1, 0, 0, a[:9]), errFixed},
		{"RDLENGTH past the message", reply(0, 1, 0, 0, a[:len(a)-1]), errData},

		// Pointers, RFC 1035 §4.1.4: to a prior occurrence of a name.
		{"to itself", reply(0, 1, 0, 0, in(ptr(firstRecord), TypeA, addr)), errPointer},
		{"loop over a label", reply(0, 1, 0, 0, in(cat(open("a"), ptr(firstRecord)), TypeA, addr)), errPointer},
		{"loop of two", reply(0, 2, 0, 0, in(ptr(firstRecord+16), TypeA, addr), in(ptr(firstRecord), TypeA, addr)), errPointer},
		{"forward", reply(0, 2, 0, 0, in(ptr(firstRecord+16), TypeA, addr), in(name("a"), TypeA, addr)), errPointer},
		{"past the end", reply(0, 1, 0, 0, in(ptr(0x3FFF), TypeA, addr)), errPointer},
		{"into the header, which changes", reply(0, 1, 0, 0, in(ptr(4), TypeA, addr)), errPointer},
		{"into the middle of a label", reply(0, 1, 0, 0, in(ptr(HeaderLen+1), TypeA, addr)), errPointer},
		{"at the question's class", reply(0, 1, 0, 0, in(ptr(firstRecord-2), TypeA, addr)), errPointer},
		{"into a TTL, which changes", reply(0, 2, 0, 0, in(self, TypeA, addr), in(ptr(firstRecord+6), TypeA, addr)), errPointer},
		{"into opaque data", reply(0, 2, 0, 0, in(self, TypeTXT, []byte("\x03abc")), in(ptr(firstRecord+12), TypeA, addr)), errPointer},
		{"cut off", reply(0, 1, 0, 0, []byte{0xC0}), errNameEnd},
		{"reserved label type", reply(0, 1, 0, 0, in([]byte{0x80, 1}, TypeA, addr)), errLabelType},
		{"name too long with its tail", cat(head(fQR, 1, 1), longName(), u16(TypeA, ClassIN),
			in(cat(open("y"), self), TypeA, addr)), errNameLen},
		{"name of 256 bytes", reply(0, 1, 0, 0, in(cat(open("y"), longName()), TypeA, addr)), errNameLen},
		{"a chain made to be slow", slowChain(maxPointers + 1), errPointers},

		// RDATA, RFC 3597 §4 and the types' own RFCs.
		{"A of 3 bytes", reply(0, 1, 0, 0, in(self, TypeA, addr[:3])), errAddrLen},
		{"AAAA of 4 bytes", reply(0, 1, 0, 0, in(self, TypeAAAA, addr)), errAddrLen},
		{"CNAME loops into itself", reply(0, 1, 0, 0, in(self, TypeCNAME, ptr(firstRecord+12))), errPointer},
		{"CNAME with no data", reply(0, 1, 0, 0, in(self, TypeCNAME)), errDataName},
		{"CNAME's name runs past RDLENGTH", reply(0, 2, 0, 0, in(self, TypeCNAME, open("abc")), a), errDataName},
		{"CNAME's pointer runs past RDLENGTH", reply(0, 2, 0, 0, in(self, TypeCNAME, []byte{0xC0}), a), errDataName},
		{"CNAME with bytes after its name", reply(0, 1, 0, 0, in(self, TypeCNAME, self, []byte{0})), errDataLen},
		{"NS forward", reply(0, 0, 1, 0, in(self, TypeNS, ptr(0x3000))), errPointer},
		{"MX without a name", reply(0, 1, 0, 0, in(self, TypeMX, u16(10))), errDataName},
		{"MX shorter than its preference", reply(0, 1, 0, 0, in(self, TypeMX, []byte{0})), errDataName},
		{"SOA without its numbers", reply(0, 0, 1, 0, in(self, TypeSOA, self, self)), errDataLen},
		{"SOA with a number too many", reply(0, 0, 1, 0, in(self, TypeSOA, self, self, make([]byte, 24))), errDataLen},
		{"SRV's target loops", reply(0, 1, 0, 0, in(self, TypeSRV, u16(1, 2, 3), ptr(firstRecord+18))), errPointer},
		{"NAPTR's strings run past", reply(0, 1, 0, 0, in(self, TypeNAPTR, u16(1, 2), []byte("\x01u\x09x"))), errDataLen},
		{"RRSIG's signer loops", reply(0, 1, 0, 0, in(self, TypeRRSIG, make([]byte, 18), ptr(firstRecord+30))), errPointer},
		{"HTTPS' target loops", reply(0, 1, 0, 0, in(self, TypeHTTPS, u16(1), ptr(firstRecord+14))), errPointer},
		{"HIP's second server loops", reply(0, 1, 0, 0, in(self, TypeHIP, []byte{1, 0, 0, 2}, []byte("hpk"), name("a"), ptr(firstRecord+22))), errPointer},
		{"HIP's key runs past", reply(0, 1, 0, 0, in(self, TypeHIP, []byte{1, 0, 0, 2}, []byte("h"))), errDataLen},
		{"IPSECKEY's gateway loops", reply(0, 1, 0, 0, in(self, TypeIPSECKEY, []byte{0, 3, 2}, ptr(firstRecord+15))), errPointer},
		{"AMTRELAY's relay loops", reply(0, 1, 0, 0, in(self, TypeAMTRELAY, []byte{0, 0x83}, ptr(firstRecord+14))), errPointer},
		{"AMTRELAY with bytes after its relay", reply(0, 1, 0, 0, in(self, TypeAMTRELAY, []byte{0, 3}, name("a"), []byte{0})), errDataLen},
		{"DSYNC's target loops", reply(0, 1, 0, 0, in(self, TypeDSYNC, u16(59), []byte{1}, u16(53), ptr(firstRecord+17))), errPointer},
		{"PX' second name loops", reply(0, 1, 0, 0, in(self, TypePX, u16(1), self, ptr(firstRecord+16))), errPointer},

		// OPT, RFC 6891 §6.1.1, and TSIG, RFC 8945 §5.1.
		{"OPT in the answer section", reply(0, 1, 0, 0, opt(1232, 0)), errOPTPlace},
		{"OPT in the authority section", reply(0, 0, 1, 0, opt(1232, 0)), errOPTPlace},
		{"two OPT", reply(0, 0, 0, 2, opt(1232, 0), opt(1232, 0)), errOPTPlace},
		{"OPT not owned by the root", reply(0, 0, 0, 1, cat(self, opt(1232, 0)[1:])), errOPTOwner},
		{"option past RDLENGTH", reply(0, 0, 0, 1, opt(1232, 0, u16(15, 3), []byte{0, 1})), errOPTOptions},
		{"pointer into the OPT", reply(0, 0, 0, 2, opt(1232, 0), in(ptr(firstRecord), TypeA, addr)), errPointer},
		{"pointer into the OPT that would be valid after correction", reply(0, 0, 0, 2,
			opt(1232, 0, option(12, strings.Repeat("\x00", 30))), in(ptr(HeaderLen+optLen+optionLen+30), TypeA, addr)), errPointer},
		{"pointer into the OPT's data", reply(0, 0, 0, 2, opt(1232, 0, option(9, "\x00\x00")), in(ptr(firstRecord+15), TypeA, addr)), errPointer},
		{"TSIG not last", reply(0, 0, 0, 2, rawRecord(name(), TypeTSIG, ClassANY, 0, nil), a), errTSIGPlace},
		{"TSIG in the answer section", reply(0, 1, 0, 0, rawRecord(name(), TypeTSIG, ClassANY, 0, nil)), errTSIGPlace},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseReply(slices.Clone(tt.msg)); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			} else if !strings.HasPrefix(err.Error(), "parse reply: ") {
				t.Errorf("error %v does not name the operation", err)
			}
		})
	}
}

// slowChain returns a reply whose last name has a chain of n pointers, each to the name of
// the record before.
func slowChain(n int) []byte {
	parts := [][]byte{in(self, TypeA, addr)}
	for i := 1; i < n; i++ {
		parts = append(parts, in(ptr(firstRecord+16*(i-1)), TypeA, addr))
	}
	return reply(0, uint16(n), 0, 0, parts...)
}

func TestParseReplyAccepts(t *testing.T) {
	before := open("mail")
	for _, tt := range []struct {
		name string
		msg  []byte
	}{
		{"plain", reply(0, 1, 0, 0, in(self, TypeA, addr))},
		{"SERVFAIL without records", reply(2, 0, 0, 0)},
		{"as many pointers as allowed", slowChain(maxPointers)},
		{"names in all types that RFC 3597 §4 lists", reply(0, 13, 1, 1,
			in(self, TypeNS, before, self),
			in(self, TypeMINFO, self, self),
			in(self, TypeMX, u16(1), before, self),
			in(self, TypePTR, ptr(HeaderLen+4)),
			in(self, TypeRP, self, self),
			in(self, TypeAFSDB, u16(1), self),
			in(self, TypeRT, u16(1), self),
			in(self, TypeSIG, make([]byte, 18), self, []byte("signature")),
			in(self, TypePX, u16(1), self, self),
			in(self, TypeNXT, self, bitmap),
			in(self, TypeSRV, u16(1, 2, 3), self),
			in(self, TypeNAPTR, u16(1, 2), []byte("\x01u\x03sip\x00"), self),
			in(self, TypeKX, u16(1), self),
			soa(self, 1, 1),
			opt(1232, 0))},
		{"data that determines its layout", reply(0, 7, 0, 0,
			in(self, TypeHIP, []byte{1, 0, 0, 2}, []byte("hpk"), name("a"), name("b")),
			in(self, TypeHIP, []byte{1, 0, 0, 2}, []byte("hpk")),
			in(self, TypeIPSECKEY, []byte{0, 3, 2}, name("a"), []byte("key")),
			in(self, TypeIPSECKEY, []byte{0, 1, 2}, addr, []byte("key")),
			in(self, TypeAMTRELAY, []byte{0, 3}, name("a")),
			in(self, TypeAMTRELAY, []byte{0, 1}, addr),
			in(self, TypeAMTRELAY, []byte{0, 0}))},
		{"a pointer to a name in data", reply(0, 2, 0, 0,
			in(self, TypeCNAME, open("web"), ptr(HeaderLen+4)), in(ptr(firstRecord+12), TypeA, addr))},
		{"a pointer to a pointer", reply(0, 2, 0, 0, in(self, TypeA, addr), in(ptr(firstRecord), TypeA, addr))},
		{"unknown types are opaque, RFC 3597 §3", reply(0, 1, 0, 0, in(self, 65280, ptr(0x3FFF)))},
		{"a label may hold any bytes", reply(0, 1, 0, 0, in(name("a.b", "\x00"), TypeCNAME, name("\xff.")))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := mustReply(t, tt.msg)
			q := mustQuery(t, ask(fRD, 0))
			want, got := unpack(t, tt.msg), unpack(t, AppendReply(nil, &q, &r, 0, 0))
			sameRecords(t, want, got)
		})
	}
	for _, extra := range [][]byte{{0}, in(self, TypeA, addr), reply(0, 1, 0, 0, in(self, TypeA, addr)), bytes.Repeat([]byte{0xFF}, 500)} {
		for name, msg := range map[string][]byte{
			"an answer": reply(0, 1, 0, 0, in(self, TypeA, addr)),
			"OPT":       reply(0, 1, 0, 1, in(self, TypeA, addr), opt(1232, 0)),
			"OPT, TSIG": reply(0, 1, 0, 2, in(self, TypeA, addr), opt(1232, 0), rawRecord(name(), TypeTSIG, ClassANY, 0, nil)),
		} {
			want, got := mustReply(t, slices.Clone(msg)), mustReply(t, cat(msg, extra))
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%d bytes after %s: %+v, want %+v", len(extra), name, got, want)
			}
		}
	}
	// The A of class CH has a name and a number, which miekg/dns does not support.
	mustReply(t, reply(0, 1, 0, 0, rawRecord(self, TypeA, ClassCH, 1, cat(name("a"), u16(1)))))
}

// bitmap is the type bitmap of an NSEC for A.
var bitmap = []byte{0, 1, 0x40}

// TestOPTIsRemoved: wherever OPT is, the other records do not change.
func TestOPTIsRemoved(t *testing.T) {
	o := opt(4096, 0x8000, option(3, "nsid"), option(12, strings.Repeat("\x00", 300)))
	tsig := rawRecord(name("key"), TypeTSIG, ClassANY, 0, cat(name("hmac"), make([]byte, 16)))
	at := firstRecord + len(o) // offset after an OPT that comes first
	for _, tt := range []struct {
		name  string
		ar    uint16
		parts [][]byte
		ttls  int
	}{
		{"last", 2, [][]byte{in(self, TypeA, addr), o}, 1},
		{"alone", 1, [][]byte{o}, 0},
		{"first", 2, [][]byte{o, in(self, TypeA, addr)}, 1},
		{"before TSIG", 3, [][]byte{in(self, TypeA, addr), o, tsig}, 1},
		{"no OPT, but TSIG", 2, [][]byte{in(self, TypeA, addr), tsig}, 1},
		{"first, with pointers past it in owners and data", 4, [][]byte{
			o,
			in(name("ns", "example", "net"), TypeA, addr),      // at `at`
			in(ptr(at), TypeMX, u16(5), open("mx"), ptr(at+3)), // both after the OPT
			in(ptr(at+3), TypeSRV, u16(1, 2, 3), ptr(HeaderLen)),
		}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			msg := reply(0, 0, 0, tt.ar, tt.parts...)
			want := unpack(t, msg)
			r := mustReply(t, msg)
			got := unpack(t, r.Msg)
			if len(r.TTLs) != tt.ttls {
				t.Errorf("%d TTLs, want %d", len(r.TTLs), tt.ttls)
			}
			for _, off := range r.TTLs {
				if ttl := binary.BigEndian.Uint32(r.Msg[off:]); ttl != 300 {
					t.Errorf("offset %d is not a TTL: %d", off, ttl)
				}
			}
			if got.IsEdns0() != nil || got.IsTsig() != nil {
				t.Errorf("OPT or TSIG is still there:\n%v", got)
			}
			sameRecords(t, want, got)
		})
	}
}

// sameRecords compares the records of two messages, except for OPT, TSIG and TTLs.
func sameRecords(t testing.TB, want, got *dns.Msg) {
	t.Helper()
	text := func(m *dns.Msg) []string {
		var s []string
		for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
			for _, rr := range section {
				h := rr.Header()
				if h.Rrtype == dns.TypeOPT || h.Rrtype == dns.TypeTSIG {
					continue
				}
				h.Ttl = 0
				s = append(s, sections[i]+" "+strings.ToLower(rr.String()))
			}
		}
		return s
	}
	if a, b := text(want), text(got); !slices.Equal(a, b) {
		t.Errorf("records changed: want\n%s\ngot\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

func TestReplyFields(t *testing.T) {
	ede := option(15, "\x00\x17upstream \xffis\x1b[31m gone\x00")
	r := mustReply(t, reply(fAA|fTC|fAD|3, 0, 1, 1, soa(self, 60, 30), opt(1232, 0x01000000, ede, option(15, "x"), option(15, "\x00\x03"))))
	if r.Rcode != 1<<4|3 || !r.TC || !r.AD || r.QEnd != firstRecord || len(r.TTLs) != 1 {
		t.Errorf("%+v", r)
	}
	if want := []EDE{{23, "upstream is[31m gone"}, {3, ""}}; !slices.Equal(r.EDE, want) {
		t.Errorf("EDE %+v, want %+v", r.EDE, want)
	}
	many := slices.Repeat(option(15, "\x00\x00"+strings.Repeat("é", 5000)), 6)
	r = mustReply(t, reply(0, 0, 0, 1, opt(1232, 0, many)))
	if len(r.EDE) != 6 || len(r.EDE[5].Text) != maxEDEText {
		t.Errorf("%d EDEs, %d bytes", len(r.EDE), len(r.EDE[5].Text))
	}
	r = mustReply(t, reply(0, 0, 0, 1, opt(1232, 0, slices.Repeat(option(15, "\x00\x00"), 500))))
	if len(r.EDE) != maxEDEs {
		t.Errorf("%d EDEs kept, want %d", len(r.EDE), maxEDEs)
	}
}

func TestCacheTime(t *testing.T) {
	a := func(ttl uint32) []byte { return rawRecord(self, TypeA, ClassIN, ttl, addr) }
	cname := func(ttl uint32) []byte { return rawRecord(self, TypeCNAME, ClassIN, ttl, name("b")) }
	ns := rawRecord(name("com"), TypeNS, ClassIN, 900, name("ns"))
	asked := func(typ, rcode, an, ns uint16, parts ...[]byte) []byte {
		return cat(head(fQR|rcode, 1, an, ns, 0), example, u16(typ, ClassIN), cat(parts...))
	}
	for _, tt := range []struct {
		name     string
		msg      []byte
		ttl      uint32
		negative bool
	}{
		{"positive", reply(0, 1, 0, 0, a(300)), 300, false},
		{"lowest of its records", reply(0, 2, 1, 0, cname(200), a(300), soa(name(), 100, 5)), 100, false},
		{"TTL 0", reply(0, 2, 0, 0, a(300), a(0)), 0, false},
		{"top bit set, RFC 2181 §8", reply(0, 1, 0, 0, a(1<<31|5)), 0, false},
		{"largest TTL", reply(0, 1, 0, 0, a(1<<31-1)), 1<<31 - 1, false},
		{"ANY", asked(TypeANY, 0, 1, 0, a(7)), 7, false},
		{"CNAME asked for", asked(TypeCNAME, 0, 1, 0, cname(8)), 8, false},
		{"AXFR is not cached", asked(TypeAXFR, 0, 0, 1, soa(name(), 9, 9)), 0, true},
		{"IXFR is not cached", asked(TypeIXFR, 0, 0, 1, soa(name(), 9, 9)), 0, true},

		{"NXDOMAIN: MINIMUM, RFC 2308 §5", reply(3, 0, 1, 0, soa(name(), 600, 400)), 400, true},
		{"NXDOMAIN: the SOA's TTL", reply(3, 0, 1, 0, soa(name(), 300, 400)), 300, true},
		{"NODATA", reply(0, 0, 1, 0, soa(name(), 600, 400)), 400, true},
		{"NODATA type 1 with NS, §2.2", reply(0, 0, 2, 0, ns, soa(name(), 600, 400)), 400, true},
		{"NODATA after a CNAME", reply(0, 1, 1, 0, cname(50), soa(name(), 600, 400)), 50, true},
		{"NXDOMAIN after a CNAME, §2.1", reply(3, 1, 1, 0, cname(500), soa(name(), 600, 400)), 400, true},
		{"NSEC counts too, RFC 9077", reply(3, 0, 2, 0, soa(name(), 600, 400), rawRecord(self, TypeNSEC, ClassIN, 60, cat(name(), bitmap))), 60, true},
		{"MINIMUM's top bit set", reply(3, 0, 1, 0, soa(name(), 600, 1<<31)), 0, true},
		{"NXDOMAIN without SOA, §5", reply(3, 0, 0, 0), 0, true},
		{"NODATA without SOA, §2.2 type 3", reply(0, 0, 0, 0), 0, true},
		{"referral", reply(0, 0, 1, 0, ns), 0, true},
		{"CNAME to nowhere", reply(0, 1, 0, 0, cname(300)), 0, true},
		{"SOA in the answer is not the authority's", reply(0, 1, 0, 0, soa(self, 600, 400)), 0, true},

		{"SERVFAIL", reply(2, 1, 1, 0, a(300), soa(name(), 600, 400)), 0, false},
		{"REFUSED", reply(5, 1, 0, 0, a(300)), 0, false},
		{"extended rcode", reply(0, 1, 0, 1, a(300), opt(512, 1<<24)), 0, false},
		{"truncated", reply(fTC, 1, 0, 0, a(300)), 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := mustReply(t, tt.msg)
			if r.TTL != tt.ttl || r.Negative != tt.negative {
				t.Errorf("TTL %d, negative %v; want %d, %v", r.TTL, r.Negative, tt.ttl, tt.negative)
			}
			if tt.ttl == 0 || !tt.negative {
				return
			}
			// A client's cache uses the SOA: its entry must not outlive ours.
			for _, rr := range unpack(t, r.Msg).Ns {
				if s, ok := rr.(*dns.SOA); ok && s.Hdr.Ttl > s.Minttl {
					t.Errorf("SOA's TTL is %d, its MINIMUM %d", s.Hdr.Ttl, s.Minttl)
				}
			}
		})
	}
	// A TTL with the top bit set becomes 0, and is not counted down from 2³¹.
	r := mustReply(t, reply(0, 1, 0, 0, a(1<<31|5)))
	if got := unpack(t, r.Msg).Answer[0].Header().Ttl; got != 0 {
		t.Errorf("TTL %d passed on", got)
	}
}

// TestWrongCountsAllocateLittle: counts alone do not cause a large allocation.
func TestWrongCountsAllocateLittle(t *testing.T) {
	msg := reply(0, 65535, 65535, 65535, in(self, TypeA, addr))
	work := bytes.Clone(msg)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 1000
	for range n {
		copy(work, msg)
		if _, err := ParseReply(work); err == nil {
			t.Fatal("accepted")
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / n; got > 1024 {
		t.Errorf("%d bytes allocated for a reply of %d", got, len(msg))
	}
}
