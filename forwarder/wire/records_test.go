// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestEachRecord(t *testing.T) {
	msg := reply(0, 2, 1, 1, in(self, TypeA, addr), in(self, TypeTXT, []byte("\x01x")), soa(name("com"), 600, 400), opt(1232, 0))
	var got string
	list := func(section int, typ uint16, data []byte) bool {
		got += fmt.Sprintf("%d %s %d, ", section, TypeName(typ), len(data))
		return typ != TypeSOA
	}
	if err := EachRecord(msg, list); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("0 A 4, 0 TXT 2, 1 SOA %d, ", soaLen(t, msg)); got != want {
		t.Errorf("%q: want %q", got, want)
	}
	all := func(int, uint16, []byte) bool { return true }
	for name, bad := range map[string][]byte{
		"short":    msg[:11],
		"question": cat(head(fQR, 1), []byte{1}),
		"type":     cat(head(fQR, 1), []byte{0, 0}),
		"record":   reply(0, 2, 0, 0, in(self, TypeA, addr)),
		"loop":     reply(0, 1, 0, 0, in(cat(open("a"), ptr(firstRecord)), TypeA, addr)),
	} {
		if err := EachRecord(bad, all); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := EachRecord(cat(head(fQR, 0, 1), in(name("a"), TypeA, addr)), all); err != nil {
		t.Errorf("no question: %v", err)
	}
}

func TestAgeTTLs(t *testing.T) {
	msg := reply(0, 1, 1, 1, in(self, TypeA, addr), soa(name("com"), 600, 400), opt(1232, 0))
	before := string(msg)
	ttls := func() (got []uint32) {
		_ = eachRecord(msg, func(_ int, rr record) bool {
			got = append(got, binary.BigEndian.Uint32(msg[rr.ttl:]))
			return true
		})
		return got
	}
	old := ttls()
	if err := AgeTTLs(msg, 0, math.MaxUint32); err != nil || string(msg) != before {
		t.Fatalf("an age of 0 changes the message: %v", err)
	}
	if err := AgeTTLs(msg, 100, 450); err != nil {
		t.Fatal(err)
	}
	if got, want := ttls(), []uint32{min(old[0]-100, 450), 450, old[2]}; !slices.Equal(got, want) {
		t.Errorf("TTLs %v: want %v", got, want)
	}
	if err := AgeTTLs(msg, math.MaxUint32, 450); err != nil {
		t.Fatal(err)
	}
	if got, want := ttls(), []uint32{0, 0, old[2]}; !slices.Equal(got, want) {
		t.Errorf("TTLs %v: want %v", got, want)
	}
	if err := AgeTTLs(msg[:len(msg)-12], 1, 1); err == nil {
		t.Error("a message that is cut off: no error")
	}
}

// soaLen returns the length of the SOA's data, found with another library.
func soaLen(t *testing.T, msg []byte) uint16 {
	t.Helper()
	var p dnsmessage.Parser
	if _, err := p.Start(msg); err != nil {
		t.Fatal(err)
	}
	if err := p.SkipAllQuestions(); err != nil {
		t.Fatal(err)
	}
	if err := p.SkipAllAnswers(); err != nil {
		t.Fatal(err)
	}
	h, err := p.AuthorityHeader()
	if err != nil {
		t.Fatal(err)
	}
	return h.Length
}

// FuzzEachRecord: no message causes a panic, and if another library accepts the message, both
// find the same number of records.
func FuzzEachRecord(f *testing.F) {
	for _, msg := range replySeeds {
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		n := 0
		err := EachRecord(msg, func(int, uint16, []byte) bool { n++; return true })
		var m dnsmessage.Message
		if m.Unpack(msg) != nil {
			return
		}
		if want := len(m.Answers) + len(m.Authorities) + len(m.Additionals); err == nil && n != want {
			t.Errorf("%d records: want %d", n, want)
		}
	})
}
