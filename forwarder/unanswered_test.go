// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// drops collects what gets no reply: the reason, and the name where it could be read.
type drops struct {
	mu  sync.Mutex
	all []string
}

func (d *drops) add(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := e.Drop.String()
	if e.TCP {
		text += " tcp"
	}
	if len(e.Name) > 0 {
		text += " " + wire.Name(e.Name)
	}
	d.all = append(d.all, text)
}

// want waits for exactly these events, in any order, and forgets them.
func (d *drops) want(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		got = slices.Sorted(slices.Values(d.all))
		done := slices.Equal(got, want)
		if done {
			d.all = nil
		}
		d.mu.Unlock()
		if done {
			return
		}
	}
	t.Errorf("dropped %q, want %q", got, want)
}

// TestUnansweredUDP: each datagram without a reply has one event, with its reason.
func TestUnansweredUDP(t *testing.T) {
	var d drops
	local := netip.MustParseAddr("127.0.0.1")
	at := start(t, Config{Upstream: newZoneUpstream(t), Dropped: d.add, Origins: func(a netip.Addr) (Origin, bool) {
		return Origin{Addr: netip.MustParseAddrPort("192.0.2.53:53")}, a == local
	}}, "0.0.0.0:0")
	query, err := question("a.example", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	response := bytes.Clone(query)
	response[2] |= 0x80
	c := redialUDP(t, netip.AddrPortFrom(local, at.Port()))
	for _, m := range [][]byte{query[:11], response, append(bytes.Clone(response[:12]), 0xff)} {
		if _, err := c.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	d.want(t, "short", "response a.example.", "response")
	other := redialUDP(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port()))
	if _, err := other.Write(query); err != nil {
		t.Fatal(err)
	}
	d.want(t, "unknown_address a.example.")
	ask(t, "udp", netip.AddrPortFrom(local, at.Port()), question("b.example", dns.TypeA))
	d.want(t)                                                            // no query with a reply
	if echo, err := net.ListenPacket("udp", "127.0.0.1:7"); err == nil { // needs a privilege
		defer echo.Close()
		if _, err := echo.WriteTo(query, net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, at.Port()))); err != nil {
			t.Fatal(err)
		}
		d.want(t, "source_port a.example.")
	}
}

func redialUDP(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestUnansweredTCP: the same for messages, and replies, that a connection does not carry.
func TestUnansweredTCP(t *testing.T) {
	var d drops
	f, addr := startForwarder(t, Config{Upstream: newZoneUpstream(t), Dropped: d.add, MaxConns: 1, TCPIdle: 10 * time.Second}, "127.0.0.1:0")
	at := addr.String()
	waiting := func(n int) {
		for end := time.Now().Add(10 * time.Second); f.Stats().Waiting != n && time.Now().Before(end); time.Sleep(time.Millisecond) {
		}
	}
	send := func(b []byte) *net.TCPConn {
		t.Helper()
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		return c.(*net.TCPConn)
	}
	query := frame(t, "a.example", dns.TypeA)
	response := bytes.Clone(query)
	response[4] |= 0x80
	send([]byte{0, 11, 1}).Close()
	d.want(t, "short tcp")
	send(response)
	d.want(t, "response tcp a.example.")
	send(query[:len(query)-1]).Close()
	d.want(t, "incomplete tcp")
	send(query[:1]).Close()
	d.want(t, "incomplete tcp")
	gone := send(frame(t, "delay-500.gone.example", dns.TypeA))
	waiting(1)
	_ = gone.SetLinger(0)
	gone.Close()
	d.want(t, "client_gone tcp delay-500.gone.example.")
	waiting(0)
	// The first connection still gets its replies, until the second one is evicted too.
	for i, name := range []string{"delay-900.evicted.example", "delay-900.draining.example"} {
		send(frame(t, name, dns.TypeA))
		waiting(i + 1)
	}
	send(query)
	d.want(t, "evicted tcp delay-900.evicted.example.")
}

// TestUnwrittenReplies: of a write that fails, the replies are reported that were not written
// completely, each message of a zone transfer together.
func TestUnwrittenReplies(t *testing.T) {
	var d drops
	c := &tcpConn{f: &Forwarder{cfg: Config{Dropped: d.add}}}
	var b []byte
	for id, name := range []string{"a", "b", "c", "c"} {
		m := question(name, dns.TypeA)
		m.Id, m.Response = uint16(min(id, 2)), true
		msg, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		b = wire.AppendFrame(b, msg)
	}
	size := len(b) / 4
	for written, want := range map[int]string{0: "a. b. c.", size - 1: "a. b. c.", size: "b. c.", 3 * size: "c.", len(b): ""} {
		c.dropReplies(b, written, DropUnread)
		var all []string
		for name := range strings.FieldsSeq(want) {
			all = append(all, "unread tcp "+name)
		}
		d.want(t, all...)
	}
	for _, err := range []error{io.ErrShortWrite, net.ErrClosed} {
		if got, want := dropOf(err), map[error]Drop{io.ErrShortWrite: DropClientGone, net.ErrClosed: DropEvicted}[err]; got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// FuzzReadFrame: a stream is split into its frames regardless of TCP segments. Of an
// incomplete frame every byte is returned, for a handover to the successor. A length field
// alone does not allocate its length.
func FuzzReadFrame(f *testing.F) {
	frame := func(n int) []byte {
		return wire.AppendFrame(nil, bytes.Repeat([]byte{7}, n))
	}
	f.Add(frame(12), uint8(1))
	f.Add(slices.Concat(frame(30), frame(40), frame(12)), uint8(0))
	f.Add(frame(600), uint8(3))
	f.Add(frame(65535), uint8(0))
	f.Add(frame(65535)[:700], uint8(2))
	f.Add(frame(11), uint8(0))
	f.Add([]byte{0, 0, 0, 0}, uint8(0))
	f.Add([]byte{0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, sent []byte, cut uint8) {
		var from io.Reader = bytes.NewReader(sent)
		switch cut % 4 {
		case 1:
			from = iotest.OneByteReader(from)
		case 2:
			from = iotest.HalfReader(from)
		case 3:
			from = iotest.DataErrReader(from)
		}
		r := bufio.NewReaderSize(from, readBuffer)
		rest := sent
		for {
			got, err := readFrame(r)
			if cap(got) > max(2*firstRead, 4*len(got)) {
				t.Fatalf("a buffer of %d bytes for %d that arrived", cap(got), len(got))
			}
			if !bytes.HasPrefix(rest, got) {
				t.Fatalf("got %x of %x", got, rest)
			}
			rest = rest[len(got):]
			size := -1
			if len(got) >= 2 {
				size = int(binary.BigEndian.Uint16(got))
			}
			whole := size >= wire.HeaderLen && len(got) == 2+size
			if whole != (err == nil) {
				t.Fatalf("%d bytes of a frame with length %d: %v", len(got), size, err)
			}
			if err == nil {
				continue
			}
			if tooShort := size >= 0 && size < wire.HeaderLen; !tooShort && len(rest) > 0 {
				t.Fatalf("ended with %v before %x", err, rest)
			}
			return
		}
	})
}
