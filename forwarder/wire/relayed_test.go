// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestAppendWithCookie: a cookie is added to any reply to which that is possible, and nothing else
// changes.
func TestAppendWithCookie(t *testing.T) {
	q := cookieQuery(t, "0123456789abcdef")
	q.SetCookie(&CookieSecret{}, netip.MustParseAddr("192.0.2.1"), time.Now())
	o := opt(4096, 0x8000, option(3, "nsid"))
	answer := in(self, TypeA, addr)
	at := firstRecord + len(o) // offset after an OPT that comes first
	tsig := signature(name("key"), "mac")
	for _, tt := range []struct {
		name      string
		msg       []byte
		unchanged bool
	}{
		{"OPT last", reply(fAA, 1, 0, 1, answer, o), false},
		{"OPT last of several", reply(0, 1, 0, 2, answer, in(name("ns"), TypeA, addr), o), false},
		{"no OPT", reply(fAA, 1, 0, 1, answer, in(name("ns"), TypeA, addr)), false},
		{"an error", cat(head(fQR|fRD|5, 1, 0, 0, 1), question, opt(512, 0)), false},
		{"an error without a question", head(fQR|fRD|1, 0), false},
		{"BADVERS", reply(0, 0, 0, 1, opt(512, 0x1000000)), false},
		{"OPT first, with pointers past it", reply(0, 0, 0, 3, o, in(name("ns", "example", "net"), TypeA, addr), in(ptr(at), TypeMX, u16(5), open("mx"), ptr(at+3))), false},
		{"bytes after the last record", cat(reply(0, 1, 0, 0, answer), []byte("garbage")), false},
		{"TSIG", reply(0, 1, 0, 2, answer, o, tsig), true},
		{"SIG(0)", reply(0, 1, 0, 2, answer, o, rawRecord([]byte{0}, TypeSIG, ClassANY, 0, make([]byte, 30))), true},
		{"two OPTs", reply(0, 0, 0, 2, o, o), true},
		{"OPT in the answer", reply(0, 1, 0, 0, o), true},
		{"another version of EDNS", reply(0, 0, 0, 1, opt(512, 0x10000)), true},
		{"cut off", reply(0, 2, 0, 0, answer), true},
		{"no header", head(fQR, 0)[:11], true},
		{"as long as TCP allows", reply(0, 1, 0, 0, in(self, TypeTXT, make([]byte, MaxMessage-firstRecord-12))), true},
	} {
		out := AppendWithCookie([]byte("xx"), tt.msg, &q, 0)[2:]
		if tt.unchanged {
			if !bytes.Equal(out, tt.msg) {
				t.Errorf("%s: changed to %x", tt.name, out)
			}
			continue
		}
		want, got := new(dns.Msg), unpack(t, out)
		_ = want.Unpack(tt.msg) // it may have bytes after the last record
		if cookieOf(t, out) == "" || want.MsgHdr != got.MsgHdr || len(got.Extra)-len(want.Extra) > 1 || Rcode(out) != Rcode(tt.msg) {
			t.Errorf("%s:\n%v", tt.name, got)
		}
		if found, valid := q.CookieIn(out); !found || !valid {
			t.Errorf("%s: the cookie is not found", tt.name)
		}
		if a, b := want.IsEdns0(), got.IsEdns0(); a != nil {
			if a.Do() != b.Do() || a.UDPSize() != b.UDPSize() || len(b.Option) != len(a.Option)+1 {
				t.Errorf("%s: another OPT:\n%v", tt.name, got)
			}
		} else if b.Do() {
			t.Errorf("%s: DO is set", tt.name)
		}
		sameRecords(t, want, got)
	}
}

// TestAppendWithCookieLength: a reply that fits the client's size only without the cookie is
// truncated.
func TestAppendWithCookieLength(t *testing.T) {
	q := cookieQuery(t, "0123456789abcdef")
	q.SetCookie(&CookieSecret{}, netip.MustParseAddr("192.0.2.1"), time.Now())
	truncated := 0
	for n := range 60 {
		records := bytes.Repeat(in(self, TypeA, addr), n)
		for _, msg := range [][]byte{reply(0, uint16(n), 0, 0, records), reply(0, uint16(n), 0, 1, records, opt(4096, 0x8000, option(3, "nsid")))} {
			for _, limit := range []int{500, 512, 900, 0} {
				out := AppendWithCookie(nil, msg, &q, limit)
				m := unpack(t, out)
				size := len(msg) + q.cookieSize()
				if unpack(t, msg).IsEdns0() == nil {
					size += optLen
				}
				if m.Truncated != (limit > 0 && size > max(limit, MinUDPSize)) {
					t.Errorf("%d records, limit %d: TC %v", n, limit, m.Truncated)
				}
				if limit > 0 && len(out) > max(limit, MinUDPSize) || cookieOf(t, out) == "" || m.Truncated != (len(m.Answer) < n) || len(m.Question) != 1 {
					t.Errorf("%d records, limit %d: %d bytes\n%v", n, limit, len(out), m)
				}
				if m.Truncated {
					truncated++
				}
			}
		}
	}
	if truncated == 0 {
		t.Error("no reply was truncated")
	}
}

// TestCookieIn: a cookie is valid for the client if it has the client's part and a server cookie.
func TestCookieIn(t *testing.T) {
	q := cookieQuery(t, "0123456789abcdef4242424242424242")
	q.SetCookie(&CookieSecret{}, netip.MustParseAddr("192.0.2.1"), time.Now())
	own := "\x01\x23\x45\x67\x89\xab\xcd\xef"
	for _, tt := range []struct {
		name         string
		msg          []byte
		found, valid bool
	}{
		{"without OPT", reply(0, 0, 0, 0), false, false},
		{"without options", reply(0, 0, 0, 1, opt(512, 0)), false, false},
		{"another option", reply(0, 0, 0, 1, opt(512, 0, option(3, own+own))), false, false},
		{"a cookie", reply(0, 0, 0, 1, opt(512, 0, option(3, "nsid"), option(10, own+"12345678"))), true, true},
		{"the client's part", reply(0, 0, 0, 1, opt(512, 0, option(10, own))), true, false},
		{"of another client", reply(0, 0, 0, 1, opt(512, 0, option(10, strings.Repeat("x", 16)))), true, false},
		{"malformed", reply(0, 0, 0, 1, opt(512, 0, []byte{0, 10, 0, 99})), false, false},
	} {
		if found, valid := q.CookieIn(tt.msg); found != tt.found || valid != tt.valid {
			t.Errorf("%s: %v, %v", tt.name, found, valid)
		}
	}
}

func TestRejectsEDNS(t *testing.T) {
	for rcode := range uint16(6) {
		for _, ar := range []uint16{0, 1} {
			msg := cat(head(fQR|rcode, 1, 0, 0, ar), question, bytes.Repeat(opt(512, 0), int(ar)))
			if got, want := RejectsEDNS(msg), ar == 0 && (rcode == RcodeFormErr || rcode == RcodeNotImp); got != want {
				t.Errorf("%s, %d OPT: %v", RcodeName(rcode), ar, got)
			}
		}
	}
}

// FuzzAppendWithCookie: whatever a server sends, the result is not longer than the limit, unless
// the reply was, and it is well-formed if the reply was.
func FuzzAppendWithCookie(f *testing.F) {
	for _, msg := range replySeeds {
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, err := ParseQuery(ask(fRD, 1, opt(1232, 0, option(10, "12345678"))))
		if err != nil || len(msg) > MaxMessage {
			return
		}
		q.SetCookie(&CookieSecret{}, netip.MustParseAddr("192.0.2.1"), time.Unix(0, 0))
		found, _ := q.CookieIn(msg)
		_, err = ParseReply(bytes.Clone(msg))
		for _, limit := range []int{0, 512, 1232} {
			out := AppendWithCookie(nil, msg, &q, limit)
			if most := max(len(msg), limit); limit > 0 && len(out) > most || len(out) > MaxMessage {
				t.Fatalf("%d bytes of %d, limit %d", len(out), len(msg), limit)
			}
			if err != nil || binary.BigEndian.Uint16(msg[4:]) != 1 {
				continue
			}
			if _, err := ParseReply(bytes.Clone(out)); err != nil {
				t.Fatalf("%v\n%x\n%x", err, msg, out)
			}
			if now, valid := q.CookieIn(out); !found && !bytes.Equal(out, msg) && !(now && valid) {
				t.Fatalf("no cookie in %x", out)
			}
		}
	})
}
