// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
)

// frame returns a query with its length field.
func frame(t *testing.T, name string, typ uint16) []byte {
	t.Helper()
	b, err := question(name, typ).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return wire.AppendFrame(nil, b)
}

// TestByteByByte: a message has to be complete before the timeout, even if bytes keep
// arriving.
func TestByteByByte(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), TCPIdle: 400 * time.Millisecond}, "127.0.0.1:0").String()
	c := redial(t, at)
	go func() {
		for _, b := range frame(t, "a-name-that-is-long-enough-for-this.example", dns.TypeA) {
			if _, err := c.Conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(40 * time.Millisecond) // sixty bytes: more than two seconds
		}
	}()
	if r, err := c.ReadMsg(); err == nil {
		t.Errorf("a message that arrives too slowly was answered: %v", r)
	}
}

// TestHalfClosed: a client that shuts down its side of the connection after its queries gets
// all answers, late ones too, and then EOF (RFC 7766 §6.2.3 and §6.2.4).
func TestHalfClosed(t *testing.T) {
	c := redial(t, start(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0").String())
	names := []string{"delay-600.example", "delay-200.example", "now.example"}
	for _, name := range names {
		if _, err := c.Conn.Write(frame(t, name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for i := range names {
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Fatalf("reply %d: %v, %v", i, r, err)
		}
	}
	if _, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last reply: %v, want EOF", err)
	}
}

// TestCutOff: if a message is incomplete, because the client shut down its side or stopped
// sending, the queries before it are answered.
func TestCutOff(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), TCPIdle: 300 * time.Millisecond}, "127.0.0.1:0").String()
	for _, end := range []bool{true, false} {
		c := redial(t, at)
		whole := frame(t, "delay-100.example", dns.TypeA)
		if _, err := c.Conn.Write(append(whole, whole[:len(whole)-1]...)); err != nil {
			t.Fatal(err)
		}
		if end {
			_ = c.Conn.(*net.TCPConn).CloseWrite()
		}
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Errorf("before the incomplete message: %v, %v", r, err)
		}
		if r, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
			t.Errorf("after it: %v, %v, want EOF", r, err)
		}
	}
}

// TestPipelinedGarbage: frames with a header and garbage are answered with FORMERR, and the
// query after them is answered. A frame without a header closes the connection, after the
// messages before it were answered.
func TestPipelinedGarbage(t *testing.T) {
	f, at := startForwarder(t, Config{Upstream: newZoneUpstream(t)}, "127.0.0.1:0")
	const n = 3 * maxPipelined
	var frames []byte
	for i := range n {
		frames = append(frames, 0, byte(12+i%50))
		frames = append(frames, make([]byte, 12+i%50)...)
	}
	frames = append(frames, frame(t, "good.example", dns.TypeA)...)
	frames = append(frames, 0, 0)                                     // no header
	frames = append(frames, frame(t, "unread.example", dns.TypeA)...) // not read
	c := redial(t, at.String())
	go func() { _, _ = c.Conn.Write(frames) }()
	formerr, good := 0, 0
	for {
		r, err := c.ReadMsg()
		if err != nil {
			break
		}
		switch {
		case r.Rcode == dns.RcodeFormatError:
			formerr++
		case len(r.Answer) == 1 && r.Question[0].Name == "good.example.":
			good++
		default:
			t.Errorf("%v", r)
		}
	}
	if formerr != n || good != 1 {
		t.Errorf("%d times FORMERR and %d answers to %d frames of garbage and one query", formerr, good, n)
	}
	waitFor(t, "the connection to be closed", func() bool { return f.Stats().Conns == 0 })
}

// TestResets: whatever the state of a connection that its client resets, no resources are
// left in use, and the next client is answered.
func TestResets(t *testing.T) {
	f, at := startForwarder(t, Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}, "127.0.0.1:0")
	ask(t, "tcp", at, question("txt-60000.example", dns.TypeTXT))
	before := runtime.NumGoroutine()
	query, long := frame(t, "delay-300.example", dns.TypeA), frame(t, "txt-60000.example", dns.TypeTXT)
	for _, tc := range []struct {
		what string
		send []byte
		read int
	}{
		{"connected", nil, 0},
		{"half a length", query[:1], 0},
		{"a length", query[:2], 0},
		{"half a query", query[:20], 0},
		{"waiting for the upstream", query, 0},
		{"waiting, with more half sent", append(append([]byte(nil), query...), query[:9]...), 0},
		{"a reply unread", frame(t, "now.example", dns.TypeA), 0},
		{"a length of the reply read", frame(t, "now.example", dns.TypeA), 2},
		{"a long reply half read", long, 20_000},
		{"many long replies unread", bytes.Repeat(long, 50), 1}, // more than the kernel takes
	} {
		for range 20 {
			c := redial(t, at.String()).Conn.(*net.TCPConn)
			if _, err := c.Write(tc.send); err != nil {
				t.Fatalf("%s: %v", tc.what, err)
			}
			if _, err := io.ReadFull(c, make([]byte, tc.read)); err != nil {
				t.Fatalf("%s: %v", tc.what, err)
			}
			_ = c.SetLinger(0)
			c.Close()
		}
		if r := ask(t, "tcp", at, question("next.example", dns.TypeA)); len(r.Answer) != 1 {
			t.Errorf("after resets when %s: %v", tc.what, r)
		}
	}
	waitFor(t, "nothing to be in use", func() bool {
		st := f.Stats()
		return st.Conns == 0 && st.Waiting == 0 && st.Misses == 0 && f.unread.Load() == 0
	})
	const idle = 10 // workers that the pool keeps
	waitFor(t, "goroutines to exit", func() bool { return runtime.NumGoroutine() <= before+idle })
}

// TestDrainingLimit: only few evicted connections may wait for pending replies. Otherwise a
// client that connects, sends a slow query and connects again could hold any number.
func TestDrainingLimit(t *testing.T) {
	const most = 16
	f, at := startForwarder(t, Config{Upstream: heldUpstream(t), MaxConns: most, Timeout: time.Minute}, "127.0.0.1:0")
	for i := range 10 * most {
		c := redial(t, at.String())
		if _, err := c.Conn.Write(frame(t, heldName(int64(i)), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the query to wait", func() bool { return f.Stats().Waiting > i })
		if open := established(t, at); open > most+most/admission.DrainingFraction+1 { // and the newest
			t.Fatalf("%d connections are open, of at most %d", open, most)
		}
	}
	c := redial(t, at.String())
	if err := c.WriteMsg(question("now.example", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
		t.Errorf("another client: %v, %v", r, err)
	}
}

// TestWorkloadShare: connections are counted by workload where it is known, so containers
// behind one address do not evict each other's.
func TestWorkloadShare(t *testing.T) {
	_, at := startForwarder(t, Config{Upstream: newZoneUpstream(t), MaxConns: 4 * admission.MinClientConns,
		Origins: func(a netip.Addr) (Origin, bool) { o, ok := workloads[a]; return o, ok }}, "0.0.0.0:0")
	modest := redial(t, netip.AddrPortFrom(netip.MustParseAddr("127.9.0.8"), at.Port()).String())
	mustAnswer(t, modest) // the longest idle of all, from here on
	var greedy []*dns.Conn
	for range admission.MinClientConns + 1 {
		greedy = append(greedy, redial(t, netip.AddrPortFrom(netip.MustParseAddr("127.9.0.7"), at.Port()).String()))
		mustAnswer(t, greedy[len(greedy)-1])
	}
	if _, err := greedy[0].ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("the greedy workload's oldest connection: %v, want EOF", err)
	}
	mustAnswer(t, greedy[1])
	mustAnswer(t, modest)
}

// TestKernelBuffers: for a client that requests much and reads nothing, the kernel buffers
// little in both directions.
func TestKernelBuffers(t *testing.T) {
	f, err := New(t.Context(), Config{Upstream: newZoneUpstream(t), Cache: newCache(t)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	long := frame(t, "txt-60000.example", dns.TypeTXT)
	c := redial(t, s.Addr().String()).Conn.(*net.TCPConn)
	accepted, err := s.tcp[0].AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); f.ServeConn(t.Context(), accepted, nil) }()
	defer func() {
		_ = c.Close()
		<-served
		_ = f.Close()
	}()
	go func() { // reads for a while, so that the kernel would increase the buffers
		_, _ = io.CopyN(io.Discard, c, 20<<20)
		_ = c.SetWriteDeadline(time.Now().Add(3 * time.Second))
	}()
	for {
		if _, err := c.Write(long); err != nil {
			break // no more is accepted
		}
	}
	raw, err := accepted.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int{}
	err = raw.Control(func(fd uintptr) {
		sizes["queued to send"], _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
		sizes["received"], _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		sizes["buffer to send"], _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		sizes["buffer to receive"], _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v", sizes)
	for what, n := range sizes {
		if n > 4*tcpBuffer {
			t.Errorf("%s: %d bytes", what, n)
		}
	}
	if sizes["queued to send"] == 0 {
		t.Error("nothing was queued, so this test proves nothing")
	}
}

// established returns how many connections to the address are open in the kernel, from the
// server's side.
func established(t *testing.T, at netip.AddrPort) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("0100007F:%04X", at.Port())
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == own && (f[3] == "01" || f[3] == "08") {
			n++
		}
	}
	return n
}
