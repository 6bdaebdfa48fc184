// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// transferServer answers each query over TCP with those messages, modified by change, and
// then acts as then says.
func transferServer(t *testing.T, then dnstest.End, change func(i int, msg []byte) []byte, msgs ...string) *dnstest.Server {
	t.Helper()
	return serve(t, loopback, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		var raw []byte
		for i, short := range msgs {
			msg := message(t, r.Query, i == 0, strings.Fields(short)...)
			if change != nil {
				msg = change(i, msg)
			}
			raw = append(raw, dnstest.Frame(msg)...)
		}
		return dnstest.Answer{Raw: raw, Then: then}
	}))
}

// collect runs a transfer and returns its messages.
func collect(ctx context.Context, c *Client, s *dnstest.Server, query []byte, until time.Time) ([][]byte, error) {
	var got [][]byte
	err := c.Transfer(ctx, s.Addr(), query, until, func(msg []byte) error {
		got = append(got, bytes.Clone(msg))
		return nil
	})
	return got, err
}

// TestTransfer: messages are passed on unchanged except for the ID, and the connection is
// closed after the last one, although the server would send more.
func TestTransfer(t *testing.T) {
	signature := []byte("bytes that a signature may be over")
	tail := func(_ int, msg []byte) []byte { return append(msg, signature...) }
	for what, c := range map[string]struct {
		query []byte
		msgs  []string
		want  int
	}{
		"AXFR":       {axfr(t), []string{"5 a", "a a", "a 5", "beyond"}, 3},
		"IXFR":       {ixfr(t, 3), []string{"5 3 a 4", "4 5 a a", "5"}, 3},
		"up to date": {ixfr(t, 5), []string{"5", "beyond"}, 1},
		"whole":      {ixfr(t, 3), []string{"5 a", "a 5", "beyond"}, 2},
	} {
		s := transferServer(t, dnstest.Keep, tail, c.msgs...)
		got, err := collect(t.Context(), New(Config{}), s, c.query, inAWhile())
		if err != nil || len(got) != c.want {
			t.Errorf("%s: %d messages, %v", what, len(got), err)
		}
		for i, msg := range got {
			want := append(message(t, c.query, i == 0, strings.Fields(c.msgs[i])...), signature...)
			if !sameButID(want, msg) || wire.ID(msg) != 0 {
				t.Errorf("%s: message %d is\n%x: want\n%x", what, i, msg, want)
			}
		}
		if q := s.Log()[0]; q.Transport != dnstest.TCP || !sameButID(q.Query, c.query) {
			t.Errorf("%s: sent %x over %s", what, q.Query, q.Transport)
		}
	}
}

func TestTransferRefused(t *testing.T) {
	s := serve(t, loopback, dnstest.Rcode(dnstest.RcodeRefused))
	got, err := collect(t.Context(), New(Config{}), s, axfr(t), inAWhile())
	if err != nil || len(got) != 1 || wire.Rcode(got[0]) != wire.RcodeRefused {
		t.Errorf("%x, %v", got, err)
	}
}

// TestTransferBroken: an incomplete transfer is an error, and messages that do not belong to
// it are not passed on.
func TestTransferBroken(t *testing.T) {
	second := func(change func(msg []byte)) func(int, []byte) []byte {
		return func(i int, msg []byte) []byte {
			if i == 1 {
				change(msg)
			}
			return msg
		}
	}
	for what, c := range map[string]struct {
		then   dnstest.End
		change func(int, []byte) []byte
		cause  error
		got    int
	}{
		"closed":   {dnstest.Close, func(i int, m []byte) []byte { return m }, io.EOF, 2},
		"ID":       {dnstest.Keep, second(func(m []byte) { m[0] ^= 1 }), errStrays, 1},
		"query":    {dnstest.Keep, second(func(m []byte) { m[2] &^= bitQR }), errStrays, 1},
		"question": {dnstest.Keep, second(func(m []byte) { m[5] = 1 }), errStrays, 1},
		"counts":   {dnstest.Keep, second(func(m []byte) { m[7] = 200 }), nil, 1},
	} {
		s := transferServer(t, c.then, c.change, "5 a", "a")
		got, err := collect(t.Context(), New(Config{}), s, axfr(t), inAWhile())
		var e *Error
		if !errors.As(err, &e) || e.Code != wire.EDENetworkError || c.cause != nil && !errors.Is(err, c.cause) || len(got) != c.got {
			t.Errorf("%s: %d messages, %v", what, len(got), err)
		}
	}
}

// TestTransferTimes: until applies to the first message. Each later one has its own
// deadline, and the whole transfer has one.
func TestTransferTimes(t *testing.T) {
	slowly := transferServer(t, dnstest.Keep, nil, "5 a")
	c := New(Config{})
	c.idle = 50 * time.Millisecond
	got, err := collect(t.Context(), c, slowly, axfr(t), inAWhile())
	if !isTimeout(err) || len(got) != 1 {
		t.Errorf("no further message: %d messages, %v", len(got), err)
	}
	c = New(Config{})
	c.idle, c.maxTransfer = time.Minute, 50*time.Millisecond
	started := time.Now()
	if got, err = collect(t.Context(), c, slowly, axfr(t), inAWhile()); !isTimeout(err) || len(got) != 1 {
		t.Errorf("too long: %d messages, %v", len(got), err)
	}
	if time.Since(started) > 30*time.Second {
		t.Error("it ended by the idle timeout")
	}
	silent := serve(t, loopback, dnstest.Silent())
	if got, err = collect(t.Context(), New(Config{}), silent, axfr(t), soon()); !isTimeout(err) || len(got) != 0 {
		t.Errorf("silence: %d messages, %v", len(got), err)
	}
}

// TestTransferOutlastsUntil: the first message's deadline does not apply to the second.
func TestTransferOutlastsUntil(t *testing.T) {
	past := make(chan struct{})
	query := axfr(t)
	l, err := net.Listen("tcp", netip.AddrPortFrom(loopback, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		asked, err := readFrame(bufio.NewReader(conn), nil)
		if err != nil {
			return
		}
		_, _ = conn.Write(dnstest.Frame(message(t, asked, true, "5", "a")))
		<-past
		_, _ = conn.Write(dnstest.Frame(message(t, asked, false, "5")))
	}()
	until, n := time.Now().Add(2*time.Second), 0
	err = New(Config{}).Transfer(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), query, until, func([]byte) error {
		if n++; n == 1 {
			time.Sleep(time.Until(until) + 50*time.Millisecond)
			close(past)
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Errorf("%d messages, %v", n, err)
	}
}

var errStop = errors.New("stop")

// TestTransferStops: an error of the callback ends the transfer, and so does the context.
func TestTransferStops(t *testing.T) {
	s := transferServer(t, dnstest.Keep, nil, "5 a", "a")
	n := 0
	err := New(Config{}).Transfer(t.Context(), s.Addr(), axfr(t), inAWhile(), func([]byte) error { n++; return errStop })
	if err != errStop || n != 1 {
		t.Errorf("%d messages, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = New(Config{}).Transfer(ctx, s.Addr(), axfr(t), inAWhile(), func(msg []byte) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	fails(t, err, wire.EDEOther, context.Canceled, "the query was cancelled")
}
