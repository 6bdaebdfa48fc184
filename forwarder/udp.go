// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

// maxDatagram is the largest UDP payload. The pages of a receive buffer beyond the
// longest query that arrived are never touched, and cost no memory.
const maxDatagram = 65535

// udpServer answers the queries of one UDP socket: hits directly from the goroutine
// that reads, batch by batch; misses through the outbox.
type udpServer struct {
	f       *Forwarder
	u       *net.UDPConn
	local   netip.Addr // invalid for a wildcard socket
	port    uint16     // local port
	in      udpIn
	hits    batch         // replies that are available immediately
	hitOf   [udpBatch]int // the messages of in that these answer
	out     udpOutbox
	pending sync.WaitGroup // misses not yet replied to
}

// udpIn holds the messages that one system call receives, and the replies to them.
type udpIn struct {
	batch
	names   [udpBatch]sockaddr
	oobs    [udpBatch][oobSize]byte
	data    [udpBatch][]byte
	reqs    [udpBatch]request // not on the stack: the router's arguments escape
	replies [udpBatch][wire.UDPSize]byte
}

func newUDPServer(f *Forwarder, u *net.UDPConn) (*udpServer, error) {
	conn, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &udpServer{f: f, u: u, port: u.LocalAddr().(*net.UDPAddr).AddrPort().Port()}
	if local, ok := boundTo(u); ok {
		s.local = local
	}
	s.in.init(conn, false)
	s.hits.init(conn, true)
	s.out.init(conn, u.SetWriteDeadline)
	s.hits.refused = func(i int, err error) { f.cfg.dropped(&s.in.reqs[s.hitOf[i]], DropSend, err) }
	for i := range s.in.data {
		s.in.data[i] = make([]byte, maxDatagram)
	}
	return s, nil
}

// run answers queries until ctx is cancelled, then waits for pending replies.
func (s *udpServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.u.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.read()
	if ctx.Err() == nil {
		return err
	}
	waitTimeout(&s.pending, drainTimeout(ctx))
	return nil
}

// read reads and answers queries, batch by batch, until the socket fails.
func (s *udpServer) read() error {
	in := &s.in
	for {
		for i := range udpBatch {
			oob := in.oobs[i][:]
			if s.local.IsValid() {
				oob = nil
			}
			in.set(i, in.data[i], &in.names[i], uint32(len(in.names[i])), oob)
		}
		n, err := in.receive()
		if err != nil {
			if transient(err) {
				continue
			}
			return err
		}
		now := time.Now()
		ready := 0
		for i := range n {
			if s.handle(i, now, ready) {
				ready++
			}
		}
		s.hits.send(ready)
	}
}

// handle handles the i-th message of a batch. If the reply is available immediately, it
// becomes s.hits' message number hit, and handle returns true. A miss becomes a pending
// query.
func (s *udpServer) handle(i int, now time.Time, hit int) bool {
	in := &s.in
	from, hdr := &in.names[i], &in.hdrs[i]
	oob, local := in.oobs[i][:hdr.hdr.Controllen], s.local
	if !local.IsValid() {
		var ok bool
		if local, ok = localAddress(oob); !ok {
			return false
		}
	} else {
		oob = nil
	}
	r := &in.reqs[i]
	*r = request{client: from.addrPort(), local: netip.AddrPortFrom(local, s.port), start: now}
	if answersAnything(from.port()) {
		s.f.drop(nil, r, in.data[i][:hdr.n], DropPort)
		return false
	}
	reply, v := s.f.answer(in.replies[i][:0], in.data[i][:hdr.n], local, r)
	if v == missed {
		s.pending.Add(1)
		m := s.newMiss(r, from, hdr.hdr.Namelen, oob)
		if err := s.f.flights.submit(&m.pendingQuery); err != nil {
			m.free()
			s.pending.Done()
			reply, v = s.f.refuse(reply, r, err), answered
		}
	}
	if v != answered {
		return false
	}
	s.hitOf[hit] = i
	s.hits.set(hit, reply, from, hdr.hdr.Namelen, oob)
	return true
}

// udpMiss is a pending query with the source and destination address of its reply.
type udpMiss struct {
	pendingQuery
	s       *udpServer
	name    sockaddr
	namelen uint32
	oobLen  int
	oob     [oobSize]byte
	reply   []byte
}

// udpMisses are reused, with the buffers for their replies.
var udpMisses = sync.Pool{New: func() any { return new(udpMiss) }}

func (s *udpServer) newMiss(r *request, from *sockaddr, namelen uint32, oob []byte) *udpMiss {
	m := udpMisses.Get().(*udpMiss)
	m.s, m.name, m.namelen = s, *from, namelen
	m.oobLen = copy(m.oob[:], oob)
	m.pendingQuery.init(s.f, r, m)
	return m
}

// send passes the reply to the outbox, which frees m.
func (m *udpMiss) send(_ *pendingQuery, buf []byte) {
	s := m.s
	m.reply = append(m.reply[:0], buf[framePrefix:]...)
	s.out.send(m)
	s.pending.Done()
}

// sendPart always fails: a zone transfer over UDP has one message (RFC 1995 §4).
func (m *udpMiss) sendPart([]byte) bool { return false }

func (m *udpMiss) abort() {}

// free makes m available for reuse.
func (m *udpMiss) free() {
	if cap(m.reply) > wire.UDPSize {
		m.reply = nil
	}
	*m = udpMiss{reply: m.reply}
	udpMisses.Put(m)
}
