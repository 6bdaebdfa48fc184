// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"testing"
)

// TestNoAllocations checks the functions on the path of a query that the cache answers.
func TestNoAllocations(t *testing.T) {
	msg := ask(fRD, 1, opt(1232, 0x8000, option(10, "12345678")))
	bad := ask(fRD, 1, opt(512, 0, u16(10, 9)))
	q := mustQuery(t, msg)
	r := mustReply(t, reply(0, 1, 0, 1, in(self, TypeA, addr), opt(512, 0, option(15, "\x00\x00text"))))
	buf := make([]byte, 0, 2048)
	for name, fn := range map[string]func(){
		"ParseQuery":            func() { _, _ = ParseQuery(msg) },
		"ParseQuery, malformed": func() { _, _ = ParseQuery(bad) },
		"AppendKey":             func() { buf = AppendKey(buf[:0], &q) },
		"AppendQuery":           func() { buf = AppendQuery(buf[:0], &q) },
		"AppendError":           func() { buf = AppendError(buf[:0], &q, RcodeServFail, EDE{EDEOther, "text"}) },
		"AppendReply":           func() { buf = AppendReply(buf[:0], &q, &r, 10, 512) },
		"AppendReply, with EDE": func() { buf = AppendReply(buf[:0], &q, &r, 10, 512, EDE{EDEOther, "text"}) },
		"AppendName":            func() { buf = AppendName(buf[:0], q.Name) },
		"SameQuestion":          func() { _ = SameQuestion(msg, r.Msg) },
		"Keepalive":             func() { _, _ = Keepalive(replySeeds["keepalive"]) },
	} {
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	plain := reply(0, 1, 0, 0, in(self, TypeA, addr))
	work := make([]byte, len(plain))
	if n := testing.AllocsPerRun(100, func() {
		copy(work, plain)
		_, _ = ParseReply(work)
	}); n > 1 {
		t.Errorf("ParseReply: %v allocations, want only that of the TTLs", n)
	}
}

func BenchmarkParseQuery(b *testing.B) {
	msg := ask(fRD|fAD, 1, opt(1232, 0x8000, option(10, "12345678")))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseQuery(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendKey(b *testing.B) {
	q := mustQuery(b, ask(fRD, 0))
	buf := make([]byte, 0, MaxKeyLen)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendKey(buf[:0], &q)
	}
}

func BenchmarkAppendQuery(b *testing.B) {
	q := mustQuery(b, ask(fRD, 0))
	buf := make([]byte, 0, MaxQueryLen)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendQuery(buf[:0], &q)
	}
}

func BenchmarkParseReply(b *testing.B) {
	for name, n := range map[string]int{"1": 1, "20": 20} {
		b.Run(name, func(b *testing.B) {
			msg := reply(0, uint16(n), 0, 1, bytes.Repeat(in(self, TypeA, addr), n), opt(1232, 0))
			work := make([]byte, len(msg))
			b.ReportAllocs()
			for b.Loop() {
				copy(work, msg)
				if _, err := ParseReply(work); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParseReplyHostile has as many records as fit, each name a long chain of pointers.
func BenchmarkParseReplyHostile(b *testing.B) {
	msg := slowChain(maxPointers)
	last := firstRecord + 16*(maxPointers-2)
	more := (MaxMessage - len(msg)) / 16
	msg = append(msg, bytes.Repeat(in(ptr(last), TypeA, addr), more)...)
	copy(msg[6:], u16(uint16(maxPointers+more)))
	work := make([]byte, len(msg))
	for b.Loop() {
		copy(work, msg)
		if _, err := ParseReply(work); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendReply(b *testing.B) {
	for name, n := range map[string]int{"1": 1, "20": 20} {
		b.Run(name, func(b *testing.B) {
			q := mustQuery(b, ask(fRD, 1, opt(1232, 0)))
			r := mustReply(b, reply(0, uint16(n), 0, 0, bytes.Repeat(in(self, TypeA, addr), n)))
			buf := make([]byte, 0, 2048)
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendReply(buf[:0], &q, &r, 10, 1232)
			}
		})
	}
}

// BenchmarkKeepalive measures what is done for every reply.
func BenchmarkKeepalive(b *testing.B) {
	msg := replySeeds["keepalive"]
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Keepalive(msg); !ok {
			b.Fatal("not found")
		}
	}
}
