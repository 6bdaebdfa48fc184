// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

func TestFrames(t *testing.T) {
	msg := servertest.Query("www.example.", dnstest.TypeA)
	long := append(servertest.Query("www.example.", dnstest.TypeA), make([]byte, wire.MaxMessage)...)[:wire.MaxMessage]
	for _, tc := range []struct {
		what   string
		stream []byte
		n      int   // whole messages
		err    error // at the end
	}{
		{"nothing", nil, 0, io.EOF},
		{"one", dnstest.Frame(msg), 1, io.EOF},
		{"three, one of them long", bytes.Join([][]byte{dnstest.Frame(msg), dnstest.Frame(long), dnstest.Frame(msg)}, nil), 3, io.EOF},
		{"half a length", []byte{0}, 0, io.ErrUnexpectedEOF},
		{"a length alone", []byte{0, 50}, 0, io.ErrUnexpectedEOF},
		{"one and a half", append(dnstest.Frame(msg), dnstest.Frame(msg)[:40]...), 1, io.ErrUnexpectedEOF},
		{"too short", append(dnstest.Frame(msg), 0, 3, 1, 2, 3), 2, io.EOF},
		{"empty", []byte{0, 0, 0, 0}, 2, io.EOF},
	} {
		for how, r := range map[string]io.Reader{
			"at once": bytes.NewReader(tc.stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(tc.stream)),
			"with the error": iotest.DataErrReader(bytes.NewReader(tc.stream)),
		} {
			fr := newFrameReader(r)
			n := 0
			var err error
			for {
				var got []byte
				if got, err = fr.next(); err != nil {
					break
				}
				if len(got) >= wire.HeaderLen && !bytes.Equal(got, msg) && !bytes.Equal(got, long) {
					t.Errorf("%s, %s: wrong message", tc.what, how)
				}
				n++
			}
			if n != tc.n || !errors.Is(err, tc.err) {
				t.Errorf("%s, %s: %d messages, then %v; want %d, then %v", tc.what, how, n, err, tc.n, tc.err)
			}
		}
	}
}

func TestMatches(t *testing.T) {
	q := servertest.Query("www.example.", dnstest.TypeA)
	bare := append([]byte{0, 0, 0x81, 0x82}, make([]byte, 8)...)
	withOPT := append(bytes.Clone(bare), 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0)
	withOPT[11] = 1
	happy := append([]byte{0, 0, 0x81, 0x80}, make([]byte, 8)...)
	for _, tc := range []struct {
		what  string
		reply []byte
		want  bool
	}{
		{"the question", q, true},
		{"other case", servertest.Query("WWW.Example.", dnstest.TypeA), true},
		{"other name", servertest.Query("www.example2.", dnstest.TypeA), false},
		{"other type", servertest.Query("www.example.", dnstest.TypeTXT), false},
		{"a bare error", bare, true},
		{"a bare error with OPT", withOPT, true},
		{"a bare success", happy, true}, // it is for this query, which fails
		{"a question cut off", append(bytes.Clone(q[:20]), 0x40), false},
	} {
		if got := transport.Matches(q, tc.reply); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.what, got, tc.want)
		}
	}
	extended := func(rcode uint16) []byte {
		msg := bytes.Clone(withOPT)
		msg[3] = 0x80 | byte(rcode&0xF)
		msg[17] = byte(rcode >> 4)
		return msg
	}
	for _, tc := range []struct {
		reply []byte
		want  uint16
	}{
		{bare, wire.RcodeServFail},
		{withOPT, wire.RcodeServFail},
		{extended(wire.RcodeBadVers), wire.RcodeFormErr},
	} {
		r := transport.WithQuestion(q, tc.reply)
		if !wire.SameQuestion(q, r) || wire.Rcode(r) != tc.want {
			t.Errorf("a bare reply became %x, want rcode %d", r, tc.want)
		}
		if _, err := wire.ParseReply(r); err != nil {
			t.Errorf("a bare reply became one that does not parse: %v", err)
		}
	}
}

// FuzzReader reads a stream that a hostile server may send, and compares the messages with
// the stream.
func FuzzReader(f *testing.F) {
	q := servertest.Query("www.example.", dnstest.TypeA)
	f.Add(dnstest.Frame(q))
	f.Add(append(dnstest.Frame(q), dnstest.Frame(q)[:30]...))
	f.Add([]byte{0, 12, 0, 0, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff})
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := newFrameReader(iotest.HalfReader(bytes.NewReader(stream)))
		at := 0
		for {
			msg, err := r.next()
			if err != nil {
				if err == io.EOF && at != len(stream) {
					t.Fatalf("io.EOF at %d of %d bytes", at, len(stream))
				}
				return
			}
			if !bytes.Equal(dnstest.Frame(msg), stream[at:at+2+len(msg)]) {
				t.Fatalf("the message of %d bytes at %d differs from the stream", len(msg), at)
			}
			at += 2 + len(msg)
			if transport.CheckReply(msg) != nil {
				continue
			}
			if transport.Matches(q, msg) && transport.IsBare(msg) && !wire.SameQuestion(q, transport.WithQuestion(q, msg)) {
				t.Fatalf("the question of %x is not the query's", msg)
			}
		}
	})
}
