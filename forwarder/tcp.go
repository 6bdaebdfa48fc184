// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sotto/forwarder/wire"
)

const (
	// maxPipelined is how many queries of one connection are worked on at a
	// time; a client that sends more is read no further until replies went out.
	maxPipelined = 128

	// maxUnread is how many bytes of replies may wait for a client to read
	// them before no more of its queries are read.
	maxUnread = 256 << 10

	// maxAllUnread is how many may wait for all clients together. Over it, who
	// lets more than fairUnread wait loses the connection: a client that reads
	// never has so much for longer than a moment.
	maxAllUnread = 32 << 20
	fairUnread   = 32 << 10

	// firstRead is how much room a message gets before more of it has come than
	// that: a length alone must not cost 64 KiB. Hardly a query is longer.
	firstRead = 512

	// readBuffer takes several pipelined queries at once.
	readBuffer = 2048

	// writeChunk is what a client must take within [Config.TCPIdle], or lose
	// its connection.
	writeChunk = 64 << 10

	// acceptPause lets descriptors come free when there is none left; warnEvery
	// is how often that is told.
	acceptPause = 50 * time.Millisecond
	warnEvery   = time.Minute
)

// tcpServer answers the connections of one listener.
type tcpServer struct {
	f      *Forwarder
	l      *net.TCPListener
	conns  sync.WaitGroup
	warned time.Time // when the latest warning was logged
}

// run accepts until ctx ends, then lets connections finish what they owe.
func (s *tcpServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	connCtx, cancel := context.WithCancelCause(ctx)
	err := s.accept(connCtx)
	// The end of ctx may come here before it comes there, and is to be the cause there too.
	cancel(context.Cause(ctx))
	waitAtMost(&s.conns, patience(ctx))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept starts a goroutine a connection until the listener fails.
func (s *tcpServer) accept(ctx context.Context) error {
	for {
		c, err := s.l.AcceptTCP()
		switch {
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			if time.Since(s.warned) > warnEvery {
				s.warned = time.Now()
				s.f.cfg.Log.Warn("accept a TCP connection: raise the limit of open files (LimitNOFILE, ulimit -n)", "err", err)
			}
			s.f.conns.makePlace()
			time.Sleep(acceptPause)
			continue
		case errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return err
		}
		s.conns.Go(func() { newTCPConn(s.f, c).serve(ctx) })
	}
}

// tcpConn is one client connection. Its reader hands queries on, in order;
// replies go out as they come, in any order (RFC 7766 §6.2.1.1), through one
// writer.
type tcpConn struct {
	f      *Forwarder
	c      *net.TCPConn
	local  netip.Addr
	client netip.AddrPort

	in     *bufio.Reader
	places chan struct{}  // one each for queries that are worked on
	owed   sync.WaitGroup // replies not yet written

	mu      sync.Mutex
	drained sync.Cond // pending was taken, or will never be
	pending []byte    // framed replies that wait for the writer
	count   int       // how many
	unread  int       // bytes of pending and of what is being written
	writing bool
	broken  bool // nothing can be written any more
}

func newTCPConn(f *Forwarder, c *net.TCPConn) *tcpConn {
	t := &tcpConn{
		f: f, c: c, in: bufio.NewReaderSize(c, readBuffer), places: make(chan struct{}, maxPipelined),
		local:  c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(),
		client: c.RemoteAddr().(*net.TCPAddr).AddrPort(),
	}
	t.drained.L = &t.mu
	return t
}

// serve answers until the client is done, idle, slow or wrong, or ctx ends; then
// it pays what it owes and closes, or gives the connection away.
func (t *tcpConn) serve(ctx context.Context) {
	defer t.c.Close()
	seat := t.f.conns.enter(t.c, t.source())
	defer t.f.conns.leave(seat)
	stop := context.AfterFunc(ctx, func() { _ = t.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var frame []byte
	var err error
	for ctx.Err() == nil {
		if err = t.c.SetReadDeadline(time.Now().Add(t.f.cfg.TCPIdle)); err != nil || ctx.Err() != nil {
			break
		}
		frame, err = readFrame(t.in)
		if errors.Is(err, os.ErrDeadlineExceeded) && len(frame) == 0 && len(t.places) > 0 {
			continue // it waits for us
		}
		if err != nil {
			break
		}
		t.f.conns.touch(seat)
		if !t.handle(frame[2:]) {
			err = errNoClient
			break
		}
		frame = nil
	}
	t.owed.Wait()
	// When ctx ends is not known: a read that it broke off looks like one that took too
	// long.
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		t.give(ctx, frame)
	}
}

// errNoClient is a message that no DNS client sends.
var errNoClient = errors.New("not a query")

// source is who counts as one with this client.
func (t *tcpConn) source() source {
	var o Origin // zero where the address stands for nothing: the first query ends it
	if t.f.cfg.Origins != nil {
		o, _ = t.f.cfg.Origins(t.local)
	}
	return sourceOf(&o, t.client.Addr())
}

// readFrame reads one message, and returns it with its length in front (RFC 1035
// §4.2.2), or with an error what there is of both. One deadline holds for all of it,
// so that a byte a second keeps nothing open.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var length [2]byte
	if n, err := io.ReadFull(r, length[:]); err != nil {
		return length[:n], err
	}
	end := 2 + int(binary.BigEndian.Uint16(length[:]))
	if end < 2+wire.HeaderLen {
		return length[:], errors.New("a frame shorter than a DNS header")
	}
	frame := make([]byte, min(end, firstRead))
	for have := copy(frame, length[:]); ; {
		n, err := io.ReadFull(r, frame[have:])
		if err != nil {
			return frame[:have+n], err
		}
		if have = len(frame); have == end {
			return frame, nil
		}
		frame = slices.Grow(frame, min(end-have, have))[:min(end, 2*have)]
	}
}

// handle takes one query, and reports whether the connection may go on.
func (t *tcpConn) handle(msg []byte) bool {
	t.waitDrained()
	t.places <- struct{}{}
	t.owed.Add(1)
	r := request{client: t.client, start: time.Now(), tcp: true}
	buf := getBuffer()
	defer putBuffer(buf)
	var v verdict
	*buf, v = t.f.answer((*buf)[:sinkRoom], msg, t.local, &r)
	switch v {
	case answered:
		t.queue(*buf, true)
	case missed:
		if err := t.f.flights.join(new(waiter).init(t.f, &r, t)); err != nil {
			*buf = t.f.refuse(*buf, &r, err)
			t.queue(*buf, true)
		}
	case dropped:
		// Whoever sends what no DNS client sends is not kept.
		t.paid(1)
		return false
	}
	return true
}

// send takes a waiter's reply.
func (t *tcpConn) send(_ *waiter, buf []byte) { t.queue(buf, true) }

// part takes one message of several.
func (t *tcpConn) part(buf []byte) bool {
	t.waitDrained()
	return t.queue(buf, false)
}

// cut breaks the connection off.
func (t *tcpConn) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.broken {
		t.breakOff()
	}
}

// waitDrained waits until the client has read enough of its replies.
func (t *tcpConn) waitDrained() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.pending) > maxUnread {
		t.drained.Wait()
	}
}

// queue frames the reply behind buf's room, if there is one, and has the writer take
// it along; last: with it a query is answered. Not true: the connection is broken. It
// does not keep buf.
func (t *tcpConn) queue(buf []byte, last bool) bool {
	binary.BigEndian.PutUint16(buf, uint16(len(buf)-sinkRoom))
	t.mu.Lock()
	defer t.mu.Unlock()
	if last {
		t.count++
	}
	if t.broken {
		t.paid(t.count)
		t.count = 0
		return false
	}
	if len(buf) == sinkRoom {
		buf = nil
	}
	t.pending = append(t.pending, buf...)
	unfair := t.unread > fairUnread // not counting this one: it may be long
	t.unread += len(buf)
	if t.f.unread.Add(int64(len(buf))) > maxAllUnread && unfair {
		t.breakOff()
		return false
	}
	if !t.writing {
		t.writing = true
		go t.write()
	}
	return true
}

// write sends what is pending until nothing is, in as few segments as it can.
func (t *tcpConn) write() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var spare []byte
	for t.count > 0 || len(t.pending) > 0 {
		batch, count := t.pending, t.count
		t.pending, t.count = spare[:0], 0
		t.drained.Broadcast()
		t.mu.Unlock()
		err := t.writeChunks(batch)
		t.paid(count)
		t.mu.Lock()
		t.taken(len(batch))
		spare = batch
		if err != nil {
			t.breakOff()
		}
	}
	t.writing = false
	if cap(t.pending) > writeChunk {
		t.pending = nil // a long answer's room is not kept for an idle client
	}
}

// writeChunks sends b. The client has to take each chunk in time, not all of a
// long answer.
func (t *tcpConn) writeChunks(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		if err := t.c.SetWriteDeadline(time.Now().Add(t.f.cfg.TCPIdle)); err != nil {
			return err
		}
		if _, err := t.c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// taken takes n bytes off what waits for the client; the caller holds t.mu.
func (t *tcpConn) taken(n int) {
	t.unread -= n
	t.f.unread.Add(-int64(n))
}

// breakOff gives the connection up, also what is being written; the caller holds
// t.mu. Reset rather than closed: a client that does not read would keep a
// closed one for minutes.
func (t *tcpConn) breakOff() {
	t.broken = true
	t.paid(t.count)
	t.taken(len(t.pending))
	t.pending, t.count = nil, 0
	t.drained.Broadcast()
	_ = t.c.SetLinger(0)
	_ = t.c.Close()
}

// paid takes n replies off what is owed and makes place for as many queries.
func (t *tcpConn) paid(n int) {
	for range n {
		<-t.places
		t.owed.Done()
	}
}
