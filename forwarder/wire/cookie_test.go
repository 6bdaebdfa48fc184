// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestSipHash uses the vectors of the authors' reference implementation: the message is 0,
// 1, 2, … and the key as well.
func TestSipHash(t *testing.T) {
	var key CookieSecret
	msg := make([]byte, 16)
	for i := range msg {
		key[i], msg[i] = byte(i), byte(i)
	}
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		if got := sipHash(&key, msg[:n]); got != want {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
}

// cookieQuery returns a query with that cookie, in hexadecimal.
func cookieQuery(t *testing.T, cookie string) Query {
	t.Helper()
	value, err := hex.DecodeString(cookie)
	if err != nil {
		t.Fatal(err)
	}
	return mustQuery(t, ask(fRD, 1, opt(1232, 0, option(10, string(value)))))
}

func secretOf(t *testing.T, text string) (s CookieSecret) {
	t.Helper()
	if n, err := hex.Decode(s[:], []byte(text)); err != nil || n != len(s) {
		t.Fatal(n, err)
	}
	return s
}

// TestServerCookie uses the examples of RFC 9018, appendix A.
func TestServerCookie(t *testing.T) {
	for _, tc := range []struct{ secret, client, sent, want string }{
		{"e5e973e5a6b2a43f48e7dc849e37bfcf", "198.51.100.100", "2464c4abcf10c957", "2464c4abcf10c957010000005cf79f111f8130c3eee29480"},
		{"e5e973e5a6b2a43f48e7dc849e37bfcf", "198.51.100.100", "2464c4abcf10c957010000005cf79f111f8130c3eee29480", "2464c4abcf10c957010000005cf7a871d4a564a1442aca77"},
		{"445536bcd2513298075a5d379663c962", "2001:db8:220:1:59de:d0f4:8769:82b8", "22681ab97d52c298010000005cf7c57926556bd0934c72f8", "22681ab97d52c298010000005cf7c609a6bb79d16625507a"},
	} {
		q, secret := cookieQuery(t, tc.sent), secretOf(t, tc.secret)
		var at int64
		if _, err := fmt.Sscanf(tc.want[24:32], "%x", &at); err != nil {
			t.Fatal(err)
		}
		q.SetCookie(&secret, netip.MustParseAddr(tc.client), time.Unix(at, 0))
		if got := cookieOf(t, AppendError(nil, &q, RcodeSuccess)); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
}

// cookieOf returns the cookie in a message, or "".
func cookieOf(t *testing.T, msg []byte) string {
	t.Helper()
	if o := unpack(t, msg).IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if c, ok := opt.(*dns.EDNS0_COOKIE); ok {
				return c.Cookie
			}
		}
	}
	return ""
}

// TestCookieValid: a server cookie is valid for its client and its time.
func TestCookieValid(t *testing.T) {
	secret := CookieSecret{1, 2, 3}
	now := time.Unix(1<<32-100, 0) // the time wraps soon
	for _, addr := range []string{"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"} {
		client := netip.MustParseAddr(addr)
		q := cookieQuery(t, "0123456789abcdef")
		if !q.SetCookie(&secret, client, now) {
			t.Errorf("%s: a client cookie alone is not valid", addr)
		}
		cookie := cookieOf(t, AppendError(nil, &q, RcodeSuccess))
		for _, tc := range []struct {
			what   string
			cookie string
			client netip.Addr
			at     time.Duration
			valid  bool
		}{
			{"at once", cookie, client, 0, true},
			{"after an hour", cookie, client, time.Hour, true},
			{"after more", cookie, client, time.Hour + time.Second, false},
			{"after 50 years", cookie, client, 50 * 365 * 24 * time.Hour, false},
			{"5 minutes before", cookie, client, -5 * time.Minute, true},
			{"more before", cookie, client, -5*time.Minute - time.Second, false},
			{"of another client", cookie, client.Next(), 0, false},
			{"another client cookie", "1" + cookie[1:], client, 0, false},
			{"another hash", cookie[:47] + string("0123456789abcdef"[(strings.IndexByte("0123456789abcdef", cookie[47])+1)%16]), client, 0, false},
			{"another version", strings.Replace(cookie, "cdef01", "cdef02", 1), client, 0, false},
			{"longer", cookie + "00", client, 0, false},
			{"shorter", cookie[:32], client, 0, false},
		} {
			q := cookieQuery(t, tc.cookie)
			if got := q.SetCookie(&secret, tc.client, now.Add(tc.at)); got != tc.valid {
				t.Errorf("%s: %s: valid: %v, want %v", addr, tc.what, got, tc.valid)
			}
		}
	}
}

// TestCookieFits: a reply with a cookie stays within its limit, and has EDEs as far as they
// fit.
func TestCookieFits(t *testing.T) {
	secret := CookieSecret{}
	text := EDE{EDEOther, strings.Repeat("x", maxEDEText)}
	value := option(10, "12345678")
	q := mustQuery(t, cat(head(fRD, 1, 0, 0, 1), longName(), u16(TypeA, ClassIN), opt(512, 0, value)))
	q.SetCookie(&secret, netip.MustParseAddr("192.0.2.1"), time.Now())
	b := AppendError(nil, &q, RcodeServFail, text)
	if m := unpack(t, b); len(b) > MaxErrorLen || cookieOf(t, b) == "" || len(m.IsEdns0().Option) != 2 {
		t.Errorf("%d bytes:\n%v", len(b), m)
	}
	q = mustQuery(t, ask(fRD, 1, opt(512, 0, value)))
	q.SetCookie(&secret, netip.MustParseAddr("192.0.2.1"), time.Now())
	sizes := map[bool]int{} // by TC
	for n := range 40 {
		r := mustReply(t, reply(0, uint16(n), 0, 0, bytes.Repeat(in(self, TypeA, addr), n)))
		for _, limit := range []int{512, 513, 530, 0} {
			out := AppendReply(nil, &q, &r, 0, limit, text)
			m := unpack(t, out)
			if limit > 0 && len(out) > limit || cookieOf(t, out) == "" || m.Truncated != (len(m.Answer) < n) {
				t.Errorf("%d records, limit %d: %d bytes\n%v", n, limit, len(out), m)
			}
			sizes[m.Truncated] = max(sizes[m.Truncated], len(out))
			out = AppendLocal(nil, &q, Local{Count: uint16(n), Records: bytes.Repeat(AppendRecord(nil, TypeA, addr), n), SOA: true}, limit, text)
			if m := unpack(t, out); limit > 0 && len(out) > limit || cookieOf(t, out) == "" || m.Truncated != (len(m.Answer) < n) {
				t.Errorf("%d local records, limit %d: %d bytes\n%v", n, limit, len(out), m)
			}
		}
	}
	if sizes[true] == 0 || sizes[false] == 0 {
		t.Errorf("sizes %v: want truncated replies and others", sizes)
	}
}

// TestNoCookieUpstream: the query to the upstream has no cookie, and the key does not depend
// on it.
func TestNoCookieUpstream(t *testing.T) {
	with, without := cookieQuery(t, "0123456789abcdef"), mustQuery(t, ask(fRD, 1, opt(1232, 0)))
	with.SetCookie(&CookieSecret{}, netip.MustParseAddr("192.0.2.1"), time.Now())
	if !bytes.Equal(AppendQuery(nil, &with), AppendQuery(nil, &without)) || !bytes.Equal(AppendKey(nil, &with), AppendKey(nil, &without)) {
		t.Error("the query depends on the cookie")
	}
}
