// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/netlab"
)

// responder answers the messages of histories on port 53 of a namespace, at all addresses.
// seen is called with the local address of a message, on a stream once per connection, like
// the forwarder does. It returns a function that is called with each message and reports
// whether to answer it.
type responder struct {
	tag  byte
	seen func(local netip.Addr) (handle func(tag byte, number int) (answer bool))

	mu    sync.Mutex
	open  map[io.Closer]bool
	loops sync.WaitGroup
}

// startResponder starts a responder. in runs a function in the namespace. The caller closes
// the responder.
func startResponder(tag byte, in func(func() error) error, seen func(netip.Addr) func(byte, int) bool) (*responder, error) {
	a := &responder{tag: tag, seen: seen, open: make(map[io.Closer]bool)}
	err := in(func() error {
		u4, err := net.ListenPacket("udp4", ":53")
		if err != nil {
			return err
		}
		a.open[u4] = true
		u6, err := net.ListenPacket("udp6", ":53")
		if err != nil {
			return err
		}
		a.open[u6] = true
		tcp, err := net.Listen("tcp", ":53")
		if err != nil {
			return err
		}
		a.open[tcp] = true
		a.loops.Go(func() { a.serve4(ipv4.NewPacketConn(u4)) })
		a.loops.Go(func() { a.serve6(ipv6.NewPacketConn(u6)) })
		a.loops.Go(func() { a.serveStreams(tcp) })
		return nil
	})
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// close closes all sockets, like the exit of a process.
func (a *responder) close() {
	a.mu.Lock()
	for c := range a.open {
		_ = c.Close()
	}
	a.open = nil
	a.mu.Unlock()
	a.loops.Wait()
}

// reply returns the answer to a message, or nil if there is none.
func (a *responder) reply(handle func(byte, int) bool, b []byte) []byte {
	tag, number, ok := readMessage(b)
	if !ok || !handle(tag, number) {
		return nil
	}
	return newMessage(a.tag, number)
}

func (a *responder) serve4(c *ipv4.PacketConn) {
	_ = c.SetControlMessage(ipv4.FlagDst, true)
	b := make([]byte, 64)
	for {
		n, cm, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		local, _ := netip.AddrFromSlice(cm.Dst)
		if r := a.reply(a.seen(local.Unmap()), b[:n]); r != nil {
			_, _ = c.WriteTo(r, &ipv4.ControlMessage{Src: cm.Dst}, from)
		}
	}
}

func (a *responder) serve6(c *ipv6.PacketConn) {
	_ = c.SetControlMessage(ipv6.FlagDst, true)
	b := make([]byte, 64)
	for {
		n, cm, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		local, _ := netip.AddrFromSlice(cm.Dst)
		if r := a.reply(a.seen(local), b[:n]); r != nil {
			_, _ = c.WriteTo(r, &ipv6.ControlMessage{Src: cm.Dst}, from)
		}
	}
}

func (a *responder) serveStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		if a.open == nil {
			a.mu.Unlock()
			_ = c.Close()
			return
		}
		a.open[c] = true
		a.mu.Unlock()
		handle := a.seen(c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
		a.loops.Go(func() {
			defer a.closeConn(c)
			b := make([]byte, messageSize)
			for {
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				if r := a.reply(handle, b); r != nil {
					_, _ = c.Write(r)
				}
			}
		})
	}
}

func (a *responder) closeConn(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[c] {
		delete(a.open, c)
		_ = c.Close()
	}
}

// recording is a capture on the LAN. Marks in it show when which cgroups were sealed.
type recording struct {
	capture *capture.Capture
	conn    net.PacketConn // of the host, sends marks
	seen    int            // packets checked
	looked  int            // packets searched for a mark
	marks   []marker
	current marker
}

// marker is the set of cgroups that are sealed from a step on.
type marker struct {
	sealed sealSet
	step   int
}

func startRecording(t *testing.T, host, lan *netlab.Host) *recording {
	t.Helper()
	c, err := capture.Start(lan.NS, netlab.LANIf)
	if err != nil {
		t.Fatal(err)
	}
	w := &recording{capture: c}
	t.Cleanup(func() {
		if _, err := c.Stop(); err != nil {
			t.Errorf("capture: %v", err)
		}
	})
	err = host.Do(func() (err error) {
		w.conn, err = net.ListenPacket("udp4", netlab.HostAddr4+":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close() })
	return w
}

// markAddr is the destination of marks. It is not a nameserver.
var markAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(netlab.LANAddr4 + ":9"))

// mark adds a mark: from now on those cgroups are sealed. When it returns, the recording
// contains all packets that were sent before, followed by the mark.
func (w *recording) mark(sealed sealSet, step int) error {
	number := len(w.marks)
	w.marks = append(w.marks, marker{sealed, step})
	if _, err := w.conn.WriteTo(newMessage(markTag, number), markAddr); err != nil {
		return fmt.Errorf("mark the recording: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		packets := w.capture.Packets()
		for ; w.looked < len(packets); w.looked++ {
			if tag, got, ok := readMessage(packets[w.looked].Payload); ok && tag == markTag && got == number {
				return nil
			}
		}
		time.Sleep(100 * time.Microsecond)
	}
	return fmt.Errorf("mark the recording: %w", ctx.Err())
}

// check checks the packets that left the host since the last call.
func (w *recording) check(m *model, prefixes ...netip.Prefix) {
	packets := w.capture.Packets()
	for _, p := range packets[w.seen:w.looked] {
		tag, number, ok := readMessage(p.Payload)
		if ok && tag == markTag {
			w.current = w.marks[number]
			continue
		}
		var q *query
		if ok && tag == queryTag {
			q = m.find(number)
		}
		virtual := func(prefix netip.Prefix) bool { return prefix.Contains(p.Dst.Addr()) || prefix.Contains(p.Src.Addr()) }
		switch {
		case slices.ContainsFunc(prefixes, virtual):
			m.violate("leak-virtual", "left the host: %v (flags %#x, of %v)", p, p.Flags, q)
		case p.Dst.Port() == 53 && w.isLeak(p, q):
			m.violate("leak-plain", "left the host after step %d, while %v was sealed: %v (flags %#x, of %v)", w.current.step, w.current.sealed, p, p.Flags, q)
		}
	}
	w.seen = w.looked
}

// isLeak reports whether a packet to port 53 must not leave. A datagram is checked by its
// query, which was sent once. A segment is checked by the time when it left, because it may
// be retransmitted; a segment without payload and SYN is not a query.
func (w *recording) isLeak(p capture.Packet, q *query) bool {
	if p.Protocol == unix.IPPROTO_UDP {
		return q == nil || !q.mayLeave
	}
	const syn = 2
	isQuery := p.Flags&syn != 0 || len(p.Payload) > 0
	return isQuery && w.current.sealed.has(groupOf(p.Dst.Addr())) && (q == nil || !q.mayLeave)
}

// nameserver returns the n-th nameserver of a group. Only sockets that were opened in the group
// query it, so that the destination of a packet identifies the group.
func nameserver(group, n int, six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", group+1, n+1))
	}
	net := []string{"192.0.2", "198.51.100", "203.0.113"}[group]
	return netip.MustParseAddr(fmt.Sprintf("%s.%d", net, n+1))
}

// nameservers is the number of nameservers per group and family.
const nameservers = 3

func groupOf(a netip.Addr) int {
	for g := range groupCount {
		for n := range nameservers {
			if a == nameserver(g, n, a.Is6()) {
				return g
			}
		}
	}
	return groupA
}
