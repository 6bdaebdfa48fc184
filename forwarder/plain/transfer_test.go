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

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// transferServer answers each query over TCP with those messages, and then does what
// is said. change may alter them.
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

// TestTransfer: messages come as they are but for the ID, and the connection is
// closed at the end, although the server would have gone on.
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
		got, err := collect(t.Context(), client(t, Config{}), s, c.query, inAWhile())
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
			t.Errorf("%s: asked %x over %s", what, q.Query, q.Transport)
		}
	}
}

func TestTransferRefused(t *testing.T) {
	s := serve(t, loopback, dnstest.Rcode(dnstest.RcodeRefused))
	got, err := collect(t.Context(), client(t, Config{}), s, axfr(t), inAWhile())
	if err != nil || len(got) != 1 || wire.Rcode(got[0]) != wire.RcodeRefused {
		t.Errorf("%x, %v", got, err)
	}
}

// TestTransferBroken: a transfer that does not reach its end is an error, and what
// does not belong to it is not handed on.
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
		got, err := collect(t.Context(), client(t, Config{}), s, axfr(t), inAWhile())
		var e *Error
		if !errors.As(err, &e) || e.Code != wire.EDENetworkError || c.cause != nil && !errors.Is(err, c.cause) || len(got) != c.got {
			t.Errorf("%s: %d messages, %v", what, len(got), err)
		}
	}
}

// TestTransferTimes: until is for the first message; each later one has a time of
// its own, and all have one together.
func TestTransferTimes(t *testing.T) {
	slowly := transferServer(t, dnstest.Keep, nil, "5 a")
	c := client(t, Config{})
	c.idle = 50 * time.Millisecond
	got, err := collect(t.Context(), c, slowly, axfr(t), inAWhile())
	if !isTimeout(err) || len(got) != 1 {
		t.Errorf("silence inside: %d messages, %v", len(got), err)
	}
	c = client(t, Config{})
	c.idle, c.most = time.Minute, 50*time.Millisecond
	began := time.Now()
	if got, err = collect(t.Context(), c, slowly, axfr(t), inAWhile()); !isTimeout(err) || len(got) != 1 {
		t.Errorf("too long: %d messages, %v", len(got), err)
	}
	if time.Since(began) > 30*time.Second {
		t.Error("it ended by being idle")
	}
	silent := serve(t, loopback, dnstest.Silent())
	if got, err = collect(t.Context(), client(t, Config{}), silent, axfr(t), soon()); !isTimeout(err) || len(got) != 0 {
		t.Errorf("silence: %d messages, %v", len(got), err)
	}
}

// TestTransferOutlastsUntil: the first message's deadline is not the second's.
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
	err = client(t, Config{}).Transfer(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), query, until, func([]byte) error {
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

// TestTransferStops: with the client's error, and with the context.
func TestTransferStops(t *testing.T) {
	s := transferServer(t, dnstest.Keep, nil, "5 a", "a")
	n := 0
	err := client(t, Config{}).Transfer(t.Context(), s.Addr(), axfr(t), inAWhile(), func([]byte) error { n++; return errStop })
	if err != errStop || n != 1 {
		t.Errorf("%d messages, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = client(t, Config{}).Transfer(ctx, s.Addr(), axfr(t), inAWhile(), func(msg []byte) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	fails(t, err, wire.EDEOther, context.Canceled, "the query was given up")
}

// TestTransferShare: transfers leave room for queries.
func TestTransferShare(t *testing.T) {
	release := make(chan struct{})
	z := zone(t)
	s := serve(t, loopback, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if r.Transport == dnstest.UDP {
			return z.Answer(r)
		}
		return dnstest.Answer{Msg: message(t, r.Query, true, "5", "a", "5"), Wait: release}
	}))
	c := client(t, Config{MaxInflight: 8})
	done := make(chan error)
	for range 2 {
		go func() {
			_, err := collect(t.Context(), c, s, axfr(t), inAWhile())
			done <- err
		}()
	}
	for s.Stats().Queries() < 2 {
		time.Sleep(time.Millisecond)
	}
	_, err := collect(t.Context(), c, s, axfr(t), inAWhile())
	fails(t, err, wire.EDEOther, ErrOverloaded, ErrOverloaded.Error())
	if _, err := c.Exchange(t.Context(), s.Addr(), ask(t, "a.", dns.TypeA), false, inAWhile()); err != nil {
		t.Errorf("a query: %v", err)
	}
	close(release)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
