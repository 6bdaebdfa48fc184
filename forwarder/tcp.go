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

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
	"sotto/internal/ratelog"
)

const (
	// maxPipelined limits the queries in flight per connection. More are read only
	// after replies were sent.
	maxPipelined = 128

	// maxUnread limits the bytes of replies that wait for a client to read them.
	// Above it no more of its queries are read.
	maxUnread = 256 << 10

	// maxAllUnread is the limit for all clients together. Above it, connections with
	// more than fairUnread are reset: a client that reads has so much unread only for
	// a moment.
	maxAllUnread = 32 << 20
	fairUnread   = 32 << 10

	// firstRead is the initial size of a message's buffer, which grows as bytes
	// arrive: a length field alone must not cost 64 KiB. Few queries are longer.
	firstRead = 512

	// readBuffer is enough for several pipelined queries.
	readBuffer = 2048

	// writeChunk is how much a client must read within [Config.TCPIdle] to keep its
	// connection.
	writeChunk = 64 << 10

	// drainIdle is how long a connection is idle after a reply until [Forwarder.Drain] closes it:
	// that is when a client that asks regularly is least likely to send its next query.
	drainIdle = 10 * time.Millisecond

	// drainWait is how long Drain waits for a query and its reply before it closes an idle
	// connection.
	drainWait = 2 * time.Second

	// acceptPause is how long to wait for free descriptors when there are none left.
	acceptPause = 50 * time.Millisecond
)

// tcpServer answers the connections of one listener.
type tcpServer struct {
	f     *Forwarder
	l     *net.TCPListener
	conns sync.WaitGroup
	warn  ratelog.Limiter
}

// run accepts connections until ctx is cancelled, then waits for their pending replies.
func (s *tcpServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	connCtx, cancel := context.WithCancelCause(ctx)
	err := s.accept(connCtx)
	// accept may fail before connCtx is cancelled, so pass on the cause.
	cancel(context.Cause(ctx))
	waitTimeout(&s.conns, drainTimeout(ctx))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept starts a goroutine per connection until the listener fails.
func (s *tcpServer) accept(ctx context.Context) error {
	for {
		c, err := s.l.AcceptTCP()
		switch {
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			if s.warn.Allow(time.Now()) {
				s.f.cfg.Log.Warn("accept a TCP connection: raise the limit of open files (LimitNOFILE, ulimit -n)", "err", err)
			}
			s.f.conns.EvictSome()
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

// tcpConn is one client connection. Queries are read in order. Replies are sent as they
// become available, in any order (RFC 7766 §6.2.1.1), by one writer goroutine.
type tcpConn struct {
	f      *Forwarder
	c      *net.TCPConn
	local  netip.AddrPort
	client netip.AddrPort

	in       *bufio.Reader
	inFlight chan struct{}  // a semaphore for queries in flight
	replies  sync.WaitGroup // not yet written

	mu      sync.Mutex
	drained sync.Cond // the writer took pending, or the connection was reset
	pending []byte    // framed replies that wait for the writer
	count   int       // how many queries those answer
	unread  int       // bytes of pending and of what is being written
	writing bool
	reset   Drop // why nothing can be written any more, or NotDropped
}

func newTCPConn(f *Forwarder, c *net.TCPConn) *tcpConn {
	t := &tcpConn{
		f: f, c: c, in: bufio.NewReaderSize(c, readBuffer), inFlight: make(chan struct{}, maxPipelined),
		local:  unmap(c.LocalAddr().(*net.TCPAddr).AddrPort()),
		client: c.RemoteAddr().(*net.TCPAddr).AddrPort(),
	}
	t.drained.L = &t.mu
	return t
}

// serve answers queries until the client is done, is idle or slow, sends something
// invalid, or ctx is cancelled. It then sends the pending replies, and closes the
// connection or hands it over.
func (t *tcpConn) serve(ctx context.Context) {
	defer t.c.Close()
	entry := t.f.conns.Add(t.c, t.source())
	defer t.f.conns.Remove(entry)
	stop := context.AfterFunc(ctx, func() { _ = t.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	stopDrain := context.AfterFunc(t.f.drain, func() { _ = t.c.SetReadDeadline(time.Now().Add(drainWait)) })
	defer stopDrain()
	var frame []byte
	var err error
	idle := t.f.cfg.TCPIdle
	for ctx.Err() == nil {
		if err = t.c.SetReadDeadline(time.Now().Add(idle)); err != nil || ctx.Err() != nil {
			break
		}
		if t.f.drain.Err() != nil && idle > drainWait { // this may have replaced Drain's deadline
			_ = t.c.SetReadDeadline(time.Now().Add(drainWait))
		}
		frame, err = readFrame(t.in)
		if errors.Is(err, os.ErrDeadlineExceeded) && len(frame) == 0 && len(t.inFlight) > 0 {
			idle = t.idleTime()
			continue // the client is waiting for replies
		}
		if err != nil {
			t.dropPartial(ctx, frame, err)
			break
		}
		t.f.conns.Touch(entry)
		if !t.handle(frame[framePrefix:]) {
			err = errNotQuery
			break
		}
		frame = nil
		idle = t.idleTime()
	}
	t.replies.Wait()
	// Cancelling ctx interrupts a read by setting a deadline in the past, so the read
	// fails as if it had timed out.
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		t.handOver(ctx, frame)
	}
}

// idleTime returns how long the connection may be idle after a query.
func (t *tcpConn) idleTime() time.Duration {
	if t.f.drain.Err() != nil {
		return drainIdle
	}
	return t.f.cfg.TCPIdle
}

// unmap returns an IPv4 address in place of its IPv6 form.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

var (
	// errNotQuery is for a message that no DNS client sends.
	errNotQuery = errors.New("not a query")

	errShortFrame = errors.New("a frame shorter than a DNS header")
)

func (t *tcpConn) source() admission.Source {
	var o Origin // stays empty for an unknown address; the first query closes the connection
	if t.f.cfg.Origins != nil {
		o, _ = t.f.cfg.Origins(t.local.Addr())
	}
	return admission.SourceOf(o.Workload, t.client.Addr())
}

// readFrame reads one message and returns it with its length field (RFC 1035 §4.2.2).
// On an error it returns what was read of both. One deadline applies to the whole
// message, so that a client cannot keep the connection open with a byte per second.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var length [framePrefix]byte
	if n, err := io.ReadFull(r, length[:]); err != nil {
		return length[:n], err
	}
	end := framePrefix + int(binary.BigEndian.Uint16(length[:]))
	if end < framePrefix+wire.HeaderLen {
		return length[:], errShortFrame
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

// handle handles one query. It reports false if the connection has to be closed.
func (t *tcpConn) handle(msg []byte) bool {
	t.waitDrained()
	t.inFlight <- struct{}{}
	t.replies.Add(1)
	r := request{client: t.client, local: t.local, start: time.Now(), tcp: true}
	buf := getBuffer()
	defer putBuffer(buf)
	var v verdict
	*buf, v = t.f.answer((*buf)[:framePrefix], msg, t.local.Addr(), &r)
	switch v {
	case answered:
		t.queue(*buf, true)
	case missed:
		if err := t.f.flights.submit(new(pendingQuery).init(t.f, &r, t)); err != nil {
			*buf = t.f.refuse(*buf, &r, err)
			t.queue(*buf, true)
		}
	case dropped:
		// The peer is not a DNS client.
		t.finish(1)
		return false
	}
	return true
}

// send queues the reply to a pending query.
func (t *tcpConn) send(_ *pendingQuery, buf []byte) { t.queue(buf, true) }

// sendPart queues one message of a zone transfer.
func (t *tcpConn) sendPart(buf []byte) bool {
	t.waitDrained()
	return t.queue(buf, false)
}

// abort resets the connection.
func (t *tcpConn) abort() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reset == NotDropped {
		t.resetConn(DropReset)
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

// queue sets the length field at the start of buf and queues the message for the writer.
// If buf has no message, only the count changes. last is set if the query is answered
// with this message. queue does not keep buf. It reports false if the connection was
// reset.
func (t *tcpConn) queue(buf []byte, last bool) bool {
	binary.BigEndian.PutUint16(buf, uint16(len(buf)-framePrefix))
	t.mu.Lock()
	defer t.mu.Unlock()
	if last {
		t.count++
	}
	if t.reset != NotDropped {
		t.dropReplies(buf, 0, t.reset)
		t.finish(t.count)
		t.count = 0
		return false
	}
	if len(buf) == framePrefix {
		buf = nil
	}
	t.pending = append(t.pending, buf...)
	unfair := t.unread > fairUnread // without this message, which may be long
	t.unread += len(buf)
	if t.f.unread.Add(int64(len(buf))) > maxAllUnread && unfair {
		t.resetConn(DropUnread)
		return false
	}
	if !t.writing {
		t.writing = true
		go t.write()
	}
	return true
}

// write sends pending replies until there are none, in as few segments as possible.
func (t *tcpConn) write() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var spare []byte
	for t.count > 0 || len(t.pending) > 0 {
		batch, count := t.pending, t.count
		t.pending, t.count = spare[:0], 0
		t.drained.Broadcast()
		t.mu.Unlock()
		n, err := t.writeChunks(batch)
		t.finish(count)
		t.mu.Lock()
		t.subtractUnread(len(batch))
		spare = batch
		if err != nil {
			why := dropOf(err)
			t.dropReplies(batch, n, why)
			t.resetConn(why)
		}
	}
	t.writing = false
	if cap(t.pending) > writeChunk {
		t.pending = nil // do not keep a large buffer for an idle client
	}
}

// writeChunks sends b, and returns how much of it the kernel has accepted. The deadline applies
// to each chunk, not to a long answer as a whole.
func (t *tcpConn) writeChunks(b []byte) (written int, err error) {
	for written < len(b) {
		if err := t.c.SetWriteDeadline(time.Now().Add(t.f.cfg.TCPIdle)); err != nil {
			return written, err
		}
		n, err := t.c.Write(b[written:min(len(b), written+writeChunk)])
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// subtractUnread subtracts n from the unread bytes. The caller holds t.mu.
func (t *tcpConn) subtractUnread(n int) {
	t.unread -= n
	t.f.unread.Add(-int64(n))
}

// resetConn resets the connection and drops pending replies. The caller holds t.mu. It does
// not close normally: a client that does not read would keep the connection open in the
// kernel for minutes.
func (t *tcpConn) resetConn(why Drop) {
	if t.reset == NotDropped {
		t.reset = why
	}
	t.dropReplies(t.pending, 0, why)
	t.finish(t.count)
	t.subtractUnread(len(t.pending))
	t.pending, t.count = nil, 0
	t.drained.Broadcast()
	_ = t.c.SetLinger(0)
	_ = t.c.Close()
}

// finish marks n queries as answered, so that as many others can be read.
func (t *tcpConn) finish(n int) {
	for range n {
		<-t.inFlight
		t.replies.Done()
	}
}
