// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"sotto/forwarder/wire"
)

const (
	// udpBatch is how many messages one system call moves at most.
	udpBatch = 32

	// maxDatagram is the largest UDP payload; the pages of a receive buffer
	// that no query reaches are never touched.
	maxDatagram = 65535

	// oobSize holds one packet info of either family.
	oobSize = 64

	// maxSpare is how much room for replies is kept between two bursts.
	maxSpare = 1024

	// maxUnsent bounds the replies that wait for a socket that takes none.
	maxUnsent = 16384
)

// batchConn is what ipv4.PacketConn and ipv6.PacketConn have in common; their
// Message is one type.
type batchConn interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

func newBatchConn(u *net.UDPConn) batchConn {
	if u.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
		return ipv4.NewPacketConn(u)
	}
	return ipv6.NewPacketConn(u)
}

// udpServer answers the queries of one UDP socket: hits from the reader's own
// goroutine, batch by batch; misses through the outbox.
type udpServer struct {
	f    *Forwarder
	u    *net.UDPConn
	conn batchConn
	out  udpOutbox
	owed sync.WaitGroup // misses not yet replied to
}

func newUDPServer(f *Forwarder, u *net.UDPConn) *udpServer {
	conn := newBatchConn(u)
	return &udpServer{f: f, u: u, conn: conn, out: udpOutbox{conn: conn}}
}

// run reads until ctx ends, then drains.
func (s *udpServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.u.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.read()
	if ctx.Err() == nil {
		return err
	}
	waitAtMost(&s.owed, drainTime)
	return nil
}

// udpBuffers is the room for one batch, made once a reader.
type udpBuffers struct {
	in  []ipv4.Message
	out []ipv4.Message
	// replies holds a hit's reply, an array per place in the batch.
	replies [udpBatch][wire.UDPSize]byte
}

func newUDPBuffers() *udpBuffers {
	b := &udpBuffers{in: make([]ipv4.Message, udpBatch), out: make([]ipv4.Message, 0, udpBatch)}
	for i := range b.in {
		b.in[i].Buffers = [][]byte{make([]byte, maxDatagram)}
		b.in[i].OOB = make([]byte, oobSize)
	}
	return b
}

// read answers batch after batch until the socket fails.
func (s *udpServer) read() error {
	b := newUDPBuffers()
	for {
		n, err := s.conn.ReadBatch(b.in, 0)
		if err != nil {
			if transient(err) {
				continue
			}
			return err
		}
		now := time.Now()
		b.out = b.out[:0]
		for i := range n {
			s.handle(b, i, now)
		}
		writeAll(s.conn, b.out)
	}
}

// transient reports errors of earlier datagrams that a socket gives to whoever
// reads next (udp(7)): they say nothing of the socket itself.
func transient(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINTR)
}

// handle takes the i-th message of a batch: a reply that is ready joins b.out, a
// miss leaves a waiter.
func (s *udpServer) handle(b *udpBuffers, i int, now time.Time) {
	m := &b.in[i]
	from, ok := m.Addr.(*net.UDPAddr)
	if !ok || from.Port == 0 {
		return // nobody can receive at port 0
	}
	oob := m.OOB[:m.NN]
	local, ok := localAddress(oob)
	if !ok {
		return
	}
	r := request{client: from.AddrPort(), start: now}
	reply, v := s.f.answer(b.replies[i][:0], m.Buffers[0][:m.N], local, &r)
	if v == missed {
		s.owed.Add(1)
		if !s.f.flights.join(s.newMiss(&r, from, oob)) {
			s.owed.Done()
			reply, v = s.f.refuse(reply, &r), answered
		}
	}
	if v == answered {
		b.out = append(b.out, ipv4.Message{Buffers: [][]byte{reply}, OOB: oob, Addr: from})
	}
}

// udpMiss is a waiter and where its reply goes, from the address that was asked.
type udpMiss struct {
	waiter
	s    *udpServer
	from *net.UDPAddr
	oob  []byte
	room [oobSize]byte // backs oob
}

func (s *udpServer) newMiss(r *request, from *net.UDPAddr, oob []byte) *waiter {
	m := &udpMiss{s: s, from: from}
	m.oob = append(m.room[:0], oob...)
	return m.waiter.init(s.f, r, m)
}

func (m *udpMiss) send(_ *waiter, buf []byte) {
	m.s.out.send(append([]byte(nil), buf[sinkRoom:]...), m.oob, m.from)
	m.s.owed.Done()
}

// part refuses: a transfer over UDP is one message, or none (RFC 1995 §4).
func (m *udpMiss) part([]byte) bool { return false }

// udpOutbox joins replies that are ready at the same time into one system call:
// the first to come writes, and goes on for those who came meanwhile.
type udpOutbox struct {
	conn    batchConn
	mu      sync.Mutex
	pending []ipv4.Message
	spare   []ipv4.Message // room for the next ones
	writing bool
}

// send writes msg, or leaves it with whoever is writing. It keeps msg.
func (o *udpOutbox) send(msg, oob []byte, to *net.UDPAddr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) >= maxUnsent {
		return // UDP may lose: a socket that takes nothing must not cost memory
	}
	o.pending = append(o.pending, ipv4.Message{Buffers: [][]byte{msg}, OOB: oob, Addr: to})
	if o.writing {
		return
	}
	o.writing = true
	for len(o.pending) > 0 {
		batch := o.pending
		o.pending, o.spare = o.spare, nil
		o.mu.Unlock()
		writeAll(o.conn, batch)
		o.mu.Lock()
		if clear(batch); cap(batch) <= maxSpare {
			o.spare = batch[:0]
		}
	}
	o.writing = false
}

// writeAll sends every message. One that the kernel refuses (no route back, say)
// is lost, as UDP may lose any; those behind it are not.
func writeAll(conn batchConn, ms []ipv4.Message) {
	for len(ms) > 0 {
		n, err := conn.WriteBatch(ms[:min(len(ms), udpBatch)], 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n <= 0 {
			n = max(n, 0) + 1
		}
		ms = ms[n:]
	}
}

// localAddress reads the packet info that came with a query, and makes it the
// one that its reply goes out with: from the same address, by whatever
// interface the route back says.
func localAddress(oob []byte) (netip.Addr, bool) {
	hdr, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	switch {
	case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= 12:
		// struct in_pktinfo: ifindex, spec_dst (the source of a reply), addr.
		clear(data[:4])
		return netip.AddrFrom4([4]byte(data[8:12])), true
	case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= 20:
		// struct in6_pktinfo: addr, ifindex. A link-local address means nothing
		// without its interface.
		local := netip.AddrFrom16([16]byte(data[:16]))
		if !local.IsLinkLocalUnicast() {
			clear(data[16:20])
		}
		return local, true
	}
	return netip.Addr{}, false
}
