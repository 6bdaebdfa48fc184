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

// TestOutOfOrder: a slow answer does not hold up a fast one (RFC 7766 §6.2.1.1).
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

// TestPipelining sends more queries than are worked on at a time before reading a
// reply, shuts its half of the connection, and gets every reply.
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
		t.Errorf("after the last reply: %v, want the end", err)
	}
}

// TestIdle: a connection without a query in flight is closed, one that waits for
// a slow upstream is not, and a message that takes too long to arrive ends it.
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
		t.Errorf("idle: %v, want the end", err)
	}
	drip := redial(t, at)
	if _, err := drip.Conn.Write([]byte{0}); err != nil { // half a length
		t.Fatal(err)
	}
	if _, err := drip.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("a byte and no more: %v, want the end", err)
	}
}

// TestBadFrames: a frame that holds no header ends the connection, as does what
// is no query.
func TestBadFrames(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0").String()
	for _, frame := range [][]byte{{0, 0}, {0, 3, 1, 2, 3}, append([]byte{0, 12, 1, 2, 0x80}, make([]byte, 9)...)} {
		c := redial(t, at)
		if _, err := c.Conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Conn.Read(make([]byte, 16)); !errors.Is(err, io.EOF) {
			t.Errorf("frame % x: read %d bytes, %v: want the end", frame, n, err)
		}
	}
	// 65,535 bytes that mean nothing are answered: the header can be read.
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

// TestMakePlace: over the limit the connection that is idle longest makes place,
// so that idle ones cannot keep a new client out.
func TestMakePlace(t *testing.T) {
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
		t.Errorf("the oldest connection: %v, want the end", err)
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

// TestClientShare: a client that holds more than its share of the connections
// makes place for itself, and not at the cost of others.
func TestClientShare(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), MaxConns: 4 * clientLeast}, "127.0.0.1:0")
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
	mustAnswer := func(c *dns.Conn) {
		t.Helper()
		if err := c.WriteMsg(question("www.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadMsg(); err != nil {
			t.Fatal(err)
		}
	}
	other := from("127.0.0.2")
	mustAnswer(other) // the longest idle of all, from here on
	var conns []*dns.Conn
	for range clientLeast + 1 {
		c := from("127.0.0.3")
		mustAnswer(c)
		conns = append(conns, c)
	}
	if _, err := conns[0].ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("the client's oldest connection: %v, want the end", err)
	}
	mustAnswer(conns[1])
	mustAnswer(other)
}

// TestSlowReader: who asks for long answers and does not read them is read no
// further, and then loses the connection.
func TestSlowReader(t *testing.T) {
	c := dialTCP(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t), TCPIdle: 300 * time.Millisecond})
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the connection to be reset", func() bool {
		return c.WriteMsg(question("txt-60000.example", dns.TypeTXT)) != nil
	})
}

// TestHogs: many clients that do not read their long answers cost no more than what is
// meant for all of them, and each no more than what is meant for one. Those who read are
// answered, also while as much waits for others as may.
func TestHogs(t *testing.T) {
	f, at := startForwarder(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	query, err := question("txt-60000.example", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	ask(t, "tcp", at, question("txt-60000.example", dns.TypeTXT)) // cached from here on: no query is in flight
	frames := bytes.Repeat(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...), maxPipelined)
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
	waitFor(t, "one that does not read to be reset", func() bool { return f.Stats().Conns < hogs })
	// Each may have one reply more than what is fair.
	if limit := int64(maxAllUnread + hogs*(fairUnread+reply)); peak > limit {
		t.Errorf("%d MiB waited for clients that do not read, want at most %d", peak>>20, limit>>20)
	}
	// The counter may be wrong; the memory is what it stands for. Slices grow by more than
	// they need.
	if n := heap() - before; n > 3*maxAllUnread {
		t.Errorf("%d MiB more are in use, for at most %d that wait", n>>20, maxAllUnread>>20)
	}
	kept, unread := f.Stats().Conns, f.unread.Load()
	// One lets at most so much wait to be written, and as much while it is written.
	if most := int64(kept) * 2 * (maxUnread + reply); unread > most {
		t.Errorf("%d bytes wait for %d clients, want at most %d", unread, kept, most)
	}

	f.unread.Add(maxAllUnread) // as if others let it wait
	defer f.unread.Add(-maxAllUnread)
	c := redial(t, at.String())
	if err := c.WriteMsg(question("txt-60000.example", dns.TypeTXT)); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
		t.Errorf("who reads gets %v", err)
	}
}

// settled waits until as much waits for clients as before, for half a second, and
// returns the most that it saw. By then all of them are stuck or reset.
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

// heap is how much memory is in use.
func heap() int64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	return int64(ms.HeapAlloc)
}

// TestLengthAlone: a length costs no more room than has come.
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
		f.conns.mu.Lock()
		defer f.conns.mu.Unlock()
		return f.conns.order.Len() == clients
	})
	time.Sleep(50 * time.Millisecond) // for the last ones to get to their byte
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > clients*32<<10 {
		t.Errorf("%d bytes for each client that sent three", n/clients)
	}
}

// TestLongQuery: a query of any length is read, in whatever pieces it comes.
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
		for piece := range slices.Chunk(append(binary.BigEndian.AppendUint16(nil, uint16(size)), b...), 1+size/3) {
			if _, err := c.Conn.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Errorf("%d bytes: %v, %v", size, r, err)
		}
	}
}

// TestLongReplies: who does read gets them all, also more than may wait at once.
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
