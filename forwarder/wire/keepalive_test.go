// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestKeepalive(t *testing.T) {
	a := in(self, TypeA, addr)
	ten := option(11, "\x00\x64")
	for _, tt := range []struct {
		name string
		msg  []byte
		want time.Duration
		ok   bool
	}{
		{"ten seconds", reply(0, 1, 0, 1, a, opt(1232, 0, ten)), 10 * time.Second, true},
		{"now", reply(0, 1, 0, 1, a, opt(1232, 0, option(11, "\x00\x00"))), 0, true},
		{"maximum", reply(0, 0, 0, 1, opt(1232, 0, option(11, "\xff\xff"))), 6553500 * time.Millisecond, true},
		{"after other options", reply(0, 1, 0, 1, a, opt(1232, 0, option(10, "12345678"), ten, option(12, "\x00"))), 10 * time.Second, true},
		{"OPT before other records", reply(0, 0, 1, 2, soa(name("com"), 1, 1), opt(1232, 0, ten), a), 10 * time.Second, true},
		{"no question", cat(head(fQR, 0, 0, 0, 1), opt(1232, 0, ten)), 10 * time.Second, true},
		{"uncompressed owner", reply(0, 1, 0, 1, in(name("www", "example"), TypeA, addr), opt(1232, 0, ten)), 10 * time.Second, true},

		{"no OPT", reply(0, 1, 0, 0, a), 0, false},
		{"no such option", reply(0, 1, 0, 1, a, opt(1232, 0, option(10, "12345678"))), 0, false},
		{"no options", reply(0, 1, 0, 1, a, opt(1232, 0)), 0, false},
		{"without a value, as in queries", reply(0, 0, 0, 1, opt(1232, 0, option(11, ""))), 0, false},
		{"three bytes", reply(0, 0, 0, 1, opt(1232, 0, option(11, "\x00\x64\x00"))), 0, false},
		{"the same bytes in another record", reply(0, 0, 0, 1, in(self, TypeTXT, ten)), 0, false},
		{"option past the record", reply(0, 0, 0, 1, opt(1232, 0, u16(10, 9), []byte("12345678"))), 0, false},
		{"record past the message", reply(0, 0, 0, 1, opt(1232, 0, ten)[:13]), 0, false},
		{"ARCOUNT is wrong", reply(0, 1, 0, 1, a), 0, false},
		{"counts are wrong by the maximum", cat(head(fQR, 65535, 65535, 65535, 65535), question), 0, false},
		{"short", reply(0, 0, 0, 1)[:11], 0, false},
		{"cut in the question", reply(0, 0, 0, 1)[:16], 0, false},
	} {
		if got, ok := Keepalive(tt.msg); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

// TestRemoveKeepalive: a query of AppendQuery keeps its size and everything but the option.
// Other messages stay as they are.
func TestRemoveKeepalive(t *testing.T) {
	q, err := ParseQuery(cat(head(fRD, 1), question))
	if err != nil {
		t.Fatal(err)
	}
	msg := AppendQuery(nil, &q)
	before := string(msg)
	var parsed dns.Msg
	RemoveKeepalive(msg)
	if err := parsed.Unpack(msg); err != nil || len(msg) != len(before) || len(msg)%128 != 0 {
		t.Fatalf("%d bytes of %d, %v", len(msg), len(before), err)
	}
	options := parsed.IsEdns0().Option
	if len(options) != 1 || options[0].Option() != optPadding {
		t.Errorf("options %v, want padding alone", options)
	}
	for _, msg := range [][]byte{
		msg,
		cat(head(fRD, 1), question),
		reply(0, 0, 0, 1, opt(1232, 0, option(11, ""))),
		reply(0, 0, 0, 1, opt(1232, 0, option(11, ""), option(10, "12345678"))),
		reply(0, 0, 0, 1, opt(1232, 0, option(11, "xx"), option(12, ""))),
		reply(0, 0, 0, 1, opt(1232, 0, option(12, ""), option(11, ""))),
		reply(0, 0, 0, 1, opt(1232, 0)),
		msg[:20],
		nil,
	} {
		before := string(msg)
		if RemoveKeepalive(msg); string(msg) != before {
			t.Errorf("%x was changed to %x", before, msg)
		}
	}
}
