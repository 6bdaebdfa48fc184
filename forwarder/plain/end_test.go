// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// records returns a transfer's records from a short form: "5" is an SOA with that serial,
// "a" another record.
func records(tb testing.TB, short []string) []dns.RR {
	tb.Helper()
	var out []dns.RR
	for i, s := range short {
		text := fmt.Sprintf("h%d.example. 60 IN TXT x", i)
		if serial, err := strconv.ParseUint(s, 10, 32); err == nil {
			text = fmt.Sprintf("example. 60 IN SOA ns.example. a.example. %d 1 1 1 1", serial)
		}
		rr, err := dns.NewRR(text)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, rr)
	}
	return out
}

// message returns a message of a transfer, compressed as servers do.
func message(tb testing.TB, query []byte, question bool, short ...string) []byte {
	tb.Helper()
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		tb.Fatal(err)
	}
	m := new(dns.Msg).SetReply(&q)
	if !question {
		m.Question = nil
	}
	m.Answer, m.Compress = records(tb, short), true
	return pack(tb, m)
}

func axfr(tb testing.TB) []byte { return ask(tb, "example.", dns.TypeAXFR) }

func ixfr(tb testing.TB, serial uint32) []byte {
	return pack(tb, new(dns.Msg).SetIxfr("example.", serial, "ns.example.", "a.example."))
}

func TestEnding(t *testing.T) {
	for _, c := range []struct {
		what  string
		query []byte
		msgs  string // separated by |; the end has to be in the last
		more  bool   // the transfer is not complete
	}{
		{what: "AXFR in one", query: axfr(t), msgs: "5 a a 5"},
		{what: "AXFR in many", query: axfr(t), msgs: "5 a|a a|a|5"},
		{what: "AXFR, a record per message", query: axfr(t), msgs: "5|a|5"},
		{what: "AXFR of an SOA", query: axfr(t), msgs: "5 5"},
		{what: "AXFR of an SOA in two", query: axfr(t), msgs: "5|5"},
		{what: "AXFR, an empty message inside", query: axfr(t), msgs: "5 a||a 5"},
		{what: "AXFR, nothing", query: axfr(t), msgs: ""},
		{what: "AXFR, incomplete", query: axfr(t), msgs: "5 a a|a", more: true},
		{what: "IXFR, up to date", query: ixfr(t, 5), msgs: "5"},
		{what: "IXFR, ahead", query: ixfr(t, 6), msgs: "5"},
		{what: "IXFR, ahead around zero", query: ixfr(t, 3), msgs: "4294967290"},
		{what: "IXFR, behind around zero", query: ixfr(t, 4294967290), msgs: "3", more: true},
		{what: "IXFR, one step", query: ixfr(t, 4), msgs: "5 4 a 5 a a 5"},
		{what: "IXFR, a record per message", query: ixfr(t, 4), msgs: "5|4|a|5|a|5"},
		{what: "IXFR, only removed", query: ixfr(t, 4), msgs: "5 4 a 5 5"},
		{what: "IXFR, only added", query: ixfr(t, 4), msgs: "5 4 5 a|5"},
		{what: "IXFR, steps", query: ixfr(t, 2), msgs: "5 2 a 3 a|3 a 5 a 5"},
		{what: "IXFR, before the last SOA", query: ixfr(t, 2), msgs: "5 2 a 3 a|3 a 5 a", more: true},
		{what: "IXFR with the zone", query: ixfr(t, 4), msgs: "5 a|a 5"},
		{what: "IXFR with a zone of an SOA", query: ixfr(t, 4), msgs: "5 5"},
		{what: "IXFR without a serial", query: ask(t, "example.", dns.TypeIXFR), msgs: "5 a|a 5"},
	} {
		e, err := newEndDetector(c.query)
		if err != nil {
			t.Fatal(err)
		}
		msgs := strings.Split(c.msgs, "|")
		for i, short := range msgs {
			last, err := e.message(message(t, c.query, i == 0, strings.Fields(short)...))
			if want := i == len(msgs)-1 && !c.more; err != nil || last != want {
				t.Errorf("%s: message %d: last is %v, %v", c.what, i, last, err)
			}
		}
	}
}

func TestEndingErrors(t *testing.T) {
	query := axfr(t)
	e, _ := newEndDetector(query)
	if _, err := e.message(message(t, query, true, "a", "5")); err != errNoSOA {
		t.Errorf("a zone that starts with another record: %v", err)
	}
	short := message(t, query, true, "5")
	short[len(short)-23] = 20 // the RDATA's length, without the names
	if _, err := e.message(append(short[:len(short)-24], append([]byte{0, 20}, make([]byte, 20)...)...)); err == nil {
		t.Error("an invalid SOA was accepted")
	}
	cut := message(t, query, true, "5", "a")
	e, _ = newEndDetector(query)
	if _, err := e.message(cut[:len(cut)-1]); err == nil {
		t.Error("a truncated message was accepted")
	}
	refused := message(t, query, true)
	refused[3] |= byte(wire.RcodeRefused)
	if last, err := e.message(refused); err != nil || !last {
		t.Errorf("REFUSED: last is %v, %v", last, err)
	}
	for _, bad := range [][]byte{ask(t, "a.", dns.TypeSOA), query[:20], pack(t, new(dns.Msg).SetNotify("a."))} {
		if _, err := newEndDetector(bad); err == nil {
			t.Errorf("%x was accepted as a transfer query", bad)
		}
	}
}

// transferOf returns the records of a well-formed transfer that data determines, and its
// query.
func transferOf(tb testing.TB, data []byte) (query []byte, short []string, rest []byte) {
	tb.Helper()
	next := func(n int) int {
		if len(data) == 0 {
			return 0
		}
		v := int(data[0]) % n
		data = data[1:]
		return v
	}
	run := func() {
		for range next(4) {
			short = append(short, "a")
		}
	}
	newest := 100 + next(10)
	end := strconv.Itoa(newest)
	short = append(short, end)
	query = axfr(tb)
	switch next(3) {
	case 0:
		run()
	case 1:
		query = ixfr(tb, 50)
		run()
	default:
		at := 50
		query = ixfr(tb, uint32(at))
		for at < newest {
			to := min(newest, at+1+next(40))
			short = append(short, strconv.Itoa(at))
			run()
			short = append(short, strconv.Itoa(to))
			run()
			at = to
		}
	}
	return query, append(short, end), data
}

// checkTransfer checks that, however the records of a transfer are distributed over
// messages, its end is detected in the message with the last record and not before.
func checkTransfer(t *testing.T, data []byte) {
	query, short, rest := transferOf(t, data)
	e, err := newEndDetector(query)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(short); {
		n := 1
		if len(rest) > 0 {
			n, rest = 1+int(rest[0])%5, rest[1:]
		}
		to := min(len(short), at+n)
		last, err := e.message(message(t, query, at == 0, short[at:to]...))
		if err != nil || last != (to == len(short)) {
			t.Fatalf("%v, %d to %d: last is %v, %v", short, at, to, last, err)
		}
		at = to
	}
}

// FuzzEnding does the same, and checks that arbitrary messages are handled.
func FuzzEnding(f *testing.F) {
	f.Add([]byte{3, 0, 2}, message(f, axfr(f), true, "5", "a", "5"))
	f.Add([]byte{3, 2, 9, 1, 2, 9, 1, 1, 1, 1, 4}, message(f, ixfr(f, 5), true, "5"))
	f.Fuzz(func(t *testing.T, data, msg []byte) {
		checkTransfer(t, data)
		for _, query := range [][]byte{axfr(t), ixfr(t, 5), msg} {
			e, err := newEndDetector(query)
			if err != nil || !continues(query, msg) {
				continue
			}
			if last, err := e.message(msg); last && err != nil {
				t.Errorf("last is true, with error %v", err)
			}
		}
	})
}

func TestTransferSplits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		data := make([]byte, 60)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		checkTransfer(t, data)
	}
}

// FuzzFrames: a stream is split into its frames, and the error at its end is the right one.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x0cabcdefghijkl\x00\x0dabcdefghijklm"), uint8(3))
	f.Add([]byte("\x00\x0babcdefghijk"), uint8(1))
	f.Add([]byte("\xff\xffabc"), uint8(7))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		r := bufio.NewReaderSize(&slow{stream, 1 + int(size)}, 16)
		var buf, read []byte
		for {
			msg, err := readFrame(r, buf)
			if err != nil {
				checkEndError(t, stream[len(read):], err)
				return
			}
			buf = msg
			read = wire.AppendFrame(read, msg)
			if !bytes.HasPrefix(stream, read) {
				t.Fatalf("read %x of %x", read, stream)
			}
		}
	})
}

func checkEndError(t *testing.T, rest []byte, err error) {
	switch {
	case len(rest) == 0:
		if err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	case len(rest) > 1 && rest[0] == 0 && rest[1] < wire.HeaderLen:
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			t.Errorf("a short frame: %v", err)
		}
	case err != io.ErrUnexpectedEOF:
		t.Errorf("inside a message: %v", err)
	}
}

// slow returns a few bytes per call.
type slow struct {
	rest []byte
	size int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(s.size, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}
