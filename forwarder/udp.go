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

// maxDatagram is the largest UDP payload; the pages of a receive buffer that no
// query reaches are never touched.
const maxDatagram = 65535

// udpServer answers the queries of one UDP socket: hits from the reader's own
// goroutine, batch by batch; misses through the outbox.
type udpServer struct {
	f     *Forwarder
	u     *net.UDPConn
	local netip.Addr // invalid: each query tells its own
	in    udpIn
	hits  batch // replies that are ready at once
	out   udpOutbox
	owed  sync.WaitGroup // misses not yet replied to
}

// udpIn is the room for what one system call receives, and for the replies to it.
type udpIn struct {
	batch
	names   [udpBatch]sockaddr
	oobs    [udpBatch][oobSize]byte
	data    [udpBatch][]byte
	reqs    [udpBatch]request // not on the stack: a router's arguments would escape
	replies [udpBatch][wire.UDPSize]byte
}

func newUDPServer(f *Forwarder, u *net.UDPConn) (*udpServer, error) {
	conn, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &udpServer{f: f, u: u}
	if local, ok := boundTo(u); ok {
		s.local = local
	}
	s.in.init(conn, false)
	s.hits.init(conn, true)
	s.out.batch.init(conn, false)
	for i := range s.in.data {
		s.in.data[i] = make([]byte, maxDatagram)
	}
	return s, nil
}

// run reads until ctx ends, then drains.
func (s *udpServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.u.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.read()
	if ctx.Err() == nil {
		return err
	}
	waitAtMost(&s.owed, patience(ctx))
	return nil
}

// read answers batch after batch until the socket fails.
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

// handle takes the i-th message of a batch: it puts a reply that is ready in the
// given place among the hits and returns true; a miss leaves a waiter.
func (s *udpServer) handle(i int, now time.Time, place int) bool {
	in := &s.in
	from, hdr := &in.names[i], &in.hdrs[i]
	if answersAnything(from.port()) {
		return false
	}
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
	*r = request{client: from.addrPort(), start: now}
	reply, v := s.f.answer(in.replies[i][:0], in.data[i][:hdr.n], local, r)
	if v == missed {
		s.owed.Add(1)
		m := s.newMiss(r, from, hdr.hdr.Namelen, oob)
		if err := s.f.flights.join(&m.waiter); err != nil {
			m.free()
			s.owed.Done()
			reply, v = s.f.refuse(reply, r, err), answered
		}
	}
	if v != answered {
		return false
	}
	s.hits.set(place, reply, from, hdr.hdr.Namelen, oob)
	return true
}

// udpMiss is a waiter and where its reply goes, from the address that was asked.
type udpMiss struct {
	waiter
	s       *udpServer
	name    sockaddr
	namelen uint32
	oobLen  int
	oob     [oobSize]byte
	reply   []byte
}

// misses are reused, with the room for their replies.
var misses = sync.Pool{New: func() any { return new(udpMiss) }}

func (s *udpServer) newMiss(r *request, from *sockaddr, namelen uint32, oob []byte) *udpMiss {
	m := misses.Get().(*udpMiss)
	m.s, m.name, m.namelen = s, *from, namelen
	m.oobLen = copy(m.oob[:], oob)
	m.waiter.init(s.f, r, m)
	return m
}

// send takes the reply. Nobody uses m after it but the outbox.
func (m *udpMiss) send(_ *waiter, buf []byte) {
	s := m.s
	m.reply = append(m.reply[:0], buf[sinkRoom:]...)
	s.out.send(m)
	s.owed.Done()
}

// part refuses: a transfer over UDP is one message, or none (RFC 1995 §4).
func (m *udpMiss) part([]byte) bool { return false }

func (m *udpMiss) cut() {}

// free gives m back for reuse.
func (m *udpMiss) free() {
	if cap(m.reply) > wire.UDPSize {
		m.reply = nil
	}
	*m = udpMiss{reply: m.reply}
	misses.Put(m)
}
