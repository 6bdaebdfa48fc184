// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// streamQueries are in flight while a fuzzed stream is read, with IDs 1, 2, and so on.
var streamQueries = [][]byte{
	servertest.Query("www.example.", dnstest.TypeA), servertest.Query("www.example.", dnstest.TypeTXT), servertest.Query("WWW2.example.", dnstest.TypeA), servertest.Query("x", dnstest.TypeA),
}

// replyTo returns a reply to one of them, with an OPT record with these options.
func replyTo(id int, rcode byte, options string) []byte {
	q := streamQueries[id-1]
	end := wire.HeaderLen + bytes.IndexByte(q[wire.HeaderLen:], 0) + 5
	msg := append([]byte{0, byte(id), 0x81, 0x80 | rcode, 0, 1, 0, 0, 0, 0, 0, 1}, q[wire.HeaderLen:end]...)
	return append(append(msg, 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, byte(len(options))), options...)
}

// FuzzUpstreamStream reads a stream that a hostile server may send, with queries in flight,
// through framing and matching. A query gets at most one reply, to its own question, and
// tables and counters agree.
func FuzzUpstreamStream(f *testing.F) {
	frames := func(msgs ...[]byte) []byte {
		var out []byte
		for _, m := range msgs {
			out = append(out, dnstest.Frame(m)...)
		}
		return out
	}
	bare := append([]byte{0, 2, 0x81, 0x82}, make([]byte, 8)...)
	bareOPT := append(append([]byte{0, 3, 0x81, 0x80}, make([]byte, 8)...), 0, 0, 41, 4, 0xd0, 1, 0, 0, 0, 0, 0)
	bareOPT[11] = 1
	f.Add([]byte(nil))
	f.Add(frames(replyTo(1, 0, ""), replyTo(4, 3, ""), replyTo(2, 2, ""), replyTo(3, 0, "")))
	f.Add(frames(replyTo(1, 0, ""), replyTo(1, 0, "")))                            // twice
	f.Add(frames(replyTo(2, 0, "\x00\x0b\x00\x02\x00\x64"), bare))                 // idle timeout of ten seconds
	f.Add(frames(replyTo(3, 0, "\x00\x0b\x00\x02\x00\x00"), bareOPT))              // idle timeout of zero
	f.Add(frames(replyTo(2, 0, "\x00\x0b\x00\x00"), replyTo(1, 0, "\x00")))        // invalid options
	f.Add(frames(bytes.Replace(replyTo(1, 0, ""), []byte{0, 1}, []byte{0, 2}, 1))) // ID of another query
	f.Add(frames(replyTo(1, 0, ""))[:20])
	f.Add(frames(streamQueries[0]))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(checkStream)
}

func checkStream(t *testing.T, stream []byte) {
	var count counters
	cfg := transport.Config{SilentTimeout: time.Second, MaxAge: time.Hour, MaxInflight: 4096, Observer: &client{}}
	c := newConn(&cfg, nil, nil, &count, func(*conn) {})
	ks := make([]*call, len(streamQueries))
	for i, q := range streamQueries {
		// Room for an excess reply, which would block otherwise.
		ks[i] = &call{query: q, done: make(chan struct{}, 2)}
		c.table.calls[uint16(i+1)] = ks[i]
		c.load.Add(1)
	}
	if err := c.readLoop(iotest.HalfReader(bytes.NewReader(stream))); err == nil {
		t.Fatal("the stream ended without an error")
	} else if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, transport.ErrMalformed) && !errors.Is(err, transport.ErrMismatch) {
		t.Fatalf("%v", err)
	}
	replied := 0
	for i, k := range ks {
		if n := len(k.done); n > 1 || (n == 1) != (c.table.get(uint16(i+1)) == nil) {
			t.Fatalf("query %d was finished %d times", i+1, n)
		} else if n == 0 {
			continue
		}
		replied++
		if k.err == transport.ErrUnusable && k.reply == nil {
			continue // no reply to any query
		}
		if k.err != nil || wire.ID(k.reply) != 0 || !wire.SameQuestion(k.query, k.reply) {
			t.Fatalf("query %d got %x, %v", i+1, k.reply, k.err)
		}
		_, _ = wire.ParseReply(k.reply) // must not panic
	}
	if n := int(c.load.Load()); n != len(ks)-replied || n != c.table.len() {
		t.Fatalf("%d in flight, %d in the table, %d of %d replied", n, c.table.len(), replied, len(ks))
	}
	if (c.idleTimeout != 0 || c.draining.Load()) && replied == 0 {
		t.Fatal("a message that is not a reply changed the idle timeout")
	}
	if c.idleTimeout < 0 || c.idleTimeout > 6553500*time.Millisecond {
		t.Fatalf("it may be idle for %v", c.idleTimeout)
	}
}
