// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
)

// dialTCP opens a connection to a forwarder of cfg.
func dialTCP(t *testing.T, cfg Config) *dns.Conn {
	t.Helper()
	return redial(t, start(t, cfg, "127.0.0.1:0").String())
}

func redial(t *testing.T, at string) *dns.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", at, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &dns.Conn{Conn: c}
}

// mustAnswer sends a query and fails the test if no reply arrives.
func mustAnswer(t *testing.T, c *dns.Conn) {
	t.Helper()
	if err := c.WriteMsg(question("www.example", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadMsg(); err != nil {
		t.Fatal(err)
	}
}

// TestOutOfOrder: a slow answer does not delay a fast one (RFC 7766 §6.2.1.1).
func TestOutOfOrder(t *testing.T) {
	c := dialTCP(t, Config{Upstream: newZoneUpstream(t)})
	slow, fast := question("delay-500.example", dns.TypeA), question("fast.example", dns.TypeA)
	for _, m := range []*dns.Msg{slow, fast} {
		if err := c.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []*dns.Msg{fast, slow} {
		r, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		if r.Id != want.Id {
			t.Errorf("%v came before %v", r.Question, want.Question)
		}
	}
}

// TestPipelining: a client that sends more queries than may be in flight before it reads a
// reply, and shuts down its side, gets every reply.
func TestPipelining(t *testing.T) {
	c := dialTCP(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)})
	const n = 4 * maxPipelined
	want := map[uint16]bool{}
	go func() {
		for i := range n {
			m := question(fmt.Sprintf("n%d.example", i/2), dns.TypeA)
			m.Id = uint16(i)
			if err := c.WriteMsg(m); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		}
		c.Conn.(*net.TCPConn).CloseWrite()
	}()
	for range n {
		r, err := c.ReadMsg()
		if err != nil {
			t.Fatalf("after %d replies: %v", len(want), err)
		}
		if want[r.Id] || len(r.Answer) != 1 {
			t.Errorf("reply %d again, or %v", r.Id, r.Answer)
		}
		want[r.Id] = true
	}
	if _, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last reply: %v, want EOF", err)
	}
}

// TestIdle: an idle connection is closed, and so is one whose message takes too long to
// arrive, but not one that waits for a slow upstream.
func TestIdle(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), TCPIdle: 200 * time.Millisecond}, "127.0.0.1:0").String()
	slow := redial(t, at)
	if err := slow.WriteMsg(question("delay-700.example", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.ReadMsg(); err != nil {
		t.Errorf("the connection did not wait for its reply: %v", err)
	}
	if _, err := slow.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("idle: %v, want EOF", err)
	}
	drip := redial(t, at)
	if _, err := drip.Conn.Write([]byte{0}); err != nil { // half a length
		t.Fatal(err)
	}
	if _, err := drip.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("one byte only: %v, want EOF", err)
	}
}

// TestBadFrames: a frame shorter than a header closes the connection, and so does a message
// that is not a query.
func TestBadFrames(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0").String()
	for _, frame := range [][]byte{{0, 0}, {0, 3, 1, 2, 3}, append([]byte{0, 12, 1, 2, 0x80}, make([]byte, 9)...)} {
		c := redial(t, at)
		if _, err := c.Conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Conn.Read(make([]byte, 16)); !errors.Is(err, io.EOF) {
			t.Errorf("frame % x: read %d bytes, %v: want EOF", frame, n, err)
		}
	}
	// 65,535 bytes of garbage are answered, since the header can be parsed.
	c := redial(t, at)
	big := make([]byte, 2+65535)
	binary.BigEndian.PutUint16(big, 65535)
	big[2], big[3] = 7, 7
	if _, err := c.Conn.Write(big); err != nil {
		t.Fatal(err)
	}
	r, err := c.ReadMsg()
	if err != nil || r.Rcode != dns.RcodeFormatError || r.Id != 0x0707 {
		t.Errorf("65,535 zeros: %v, %v: want FORMERR", r, err)
	}
}

// TestEviction: over the limit the least recently used connection is evicted, so that idle
// ones cannot keep a new client out.
func TestEviction(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), MaxConns: 2}, "127.0.0.1:0").String()
	var conns []*dns.Conn
	for i := range 3 {
		c := redial(t, at)
		if err := c.WriteMsg(question(fmt.Sprintf("n%d.example", i), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadMsg(); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, c)
	}
	if _, err := conns[0].ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("the oldest connection: %v, want EOF", err)
	}
	for _, c := range conns[1:] {
		if err := c.WriteMsg(question("again.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadMsg(); err != nil {
			t.Errorf("a newer connection: %v", err)
		}
	}
}

// TestClientShare: a client over its share of the connections loses its own, not those of
// others.
func TestClientShare(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), MaxConns: 4 * admission.MinClientConns}, "127.0.0.1:0")
	from := func(client string) *dns.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		return &dns.Conn{Conn: c}
	}
	other := from("127.0.0.2")
	mustAnswer(t, other) // the longest idle of all, from here on
	var conns []*dns.Conn
	for range admission.MinClientConns + 1 {
		c := from("127.0.0.3")
		mustAnswer(t, c)
		conns = append(conns, c)
	}
	if _, err := conns[0].ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("the client's oldest connection: %v, want EOF", err)
	}
	mustAnswer(t, conns[1])
	mustAnswer(t, other)
}

// TestSlowReader: a client that requests long answers and does not read them is no longer
// read from, and then loses its connection.
func TestSlowReader(t *testing.T) {
	c := dialTCP(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t), TCPIdle: 300 * time.Millisecond})
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the connection to be reset", func() bool {
		return c.WriteMsg(question("txt-60000.example", dns.TypeTXT)) != nil
	})
}

// TestHogs: many clients that do not read their long answers use no more than the limit for
// all clients, and each no more than the limit for one. Clients that read are answered even
// while that limit is reached.
func TestHogs(t *testing.T) {
	f, at := startForwarder(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	query, err := question("txt-60000.example", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	ask(t, "tcp", at, question("txt-60000.example", dns.TypeTXT)) // cached now: no query is in flight
	frames := bytes.Repeat(wire.AppendFrame(nil, query), maxPipelined)
	const hogs, reply = 200, 61_000
	before := heap()
	var wg sync.WaitGroup
	for range hogs {
		c := redial(t, at.String())
		if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { _, _ = c.Conn.Write(frames) }) // may be reset
	}
	peak := settled(f)
	wg.Wait()
	waitFor(t, "a client that does not read to be reset", func() bool { return f.Stats().Conns < hogs })
	// Each may have one reply more than fairUnread.
	if limit := int64(maxAllUnread + hogs*(fairUnread+reply)); peak > limit {
		t.Errorf("%d MiB waited for clients that do not read, want at most %d", peak>>20, limit>>20)
	}
	// Check the memory too, since the counter may be wrong. Slices grow by more than they
	// need.
	if n := heap() - before; n > 3*maxAllUnread {
		t.Errorf("%d MiB more are in use, for at most %d MiB unread", n>>20, maxAllUnread>>20)
	}
	kept, unread := f.Stats().Conns, f.unread.Load()
	// Each may have that much pending, and as much being written.
	if most := int64(kept) * 2 * (maxUnread + reply); unread > most {
		t.Errorf("%d bytes wait for %d clients, want at most %d", unread, kept, most)
	}

	f.unread.Add(maxAllUnread) // as if other clients did not read
	defer f.unread.Add(-maxAllUnread)
	c := redial(t, at.String())
	if err := c.WriteMsg(question("txt-60000.example", dns.TypeTXT)); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
		t.Errorf("a client that reads: %v", err)
	}
}

// settled waits until the unread bytes have not changed for half a second, and returns
// their maximum. By then all clients are blocked or reset.
func settled(f *Forwarder) (peak int64) {
	last, since := int64(-1), time.Now()
	for time.Since(since) < 500*time.Millisecond {
		n := f.unread.Load()
		if n != last {
			last, since = n, time.Now()
		}
		peak = max(peak, n)
		time.Sleep(time.Millisecond)
	}
	return peak
}

// heap returns the size of the live heap.
func heap() int64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	return int64(ms.HeapAlloc)
}

// TestLengthAlone: a length field alone does not allocate its length.
func TestLengthAlone(t *testing.T) {
	const clients = 200
	f, at := startForwarder(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range clients {
		if _, err := redial(t, at.String()).Conn.Write([]byte{0xFF, 0xFF, 0}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the connections to be read", func() bool {
		return f.conns.Len() == clients
	})
	time.Sleep(50 * time.Millisecond) // until the last byte is read
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > clients*32<<10 {
		t.Errorf("%d bytes per client that sent three", n/clients)
	}
}

// TestLongQuery: a query of any length is read, in whatever pieces it arrives.
func TestLongQuery(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0").String()
	for _, size := range []int{100, 500, 511, 512, 513, 1024, 5000, 65000} {
		m := question("a.example", dns.TypeA)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, size-42)})
		b, err := m.Pack()
		if err != nil || len(b) != size {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		c := redial(t, at)
		for piece := range slices.Chunk(wire.AppendFrame(nil, b), 1+size/3) {
			if _, err := c.Conn.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Errorf("%d bytes: %v, %v", size, r, err)
		}
	}
}

// TestLongReplies: a client that reads gets all replies, also more than maxUnread.
func TestLongReplies(t *testing.T) {
	c := dialTCP(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)})
	const n = 3 * maxPipelined
	go func() {
		for range n {
			if err := c.WriteMsg(question("txt-60000.example", dns.TypeTXT)); err != nil {
				t.Errorf("write: %v", err)
			}
		}
	}()
	for i := range n {
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Fatalf("reply %d: %v", i, err)
		}
	}
}
