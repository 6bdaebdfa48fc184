// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

const (
	// handshakeTimeout limits the TLS handshake.
	handshakeTimeout = 10 * time.Second

	// writeTimeout closes the connection of a client that does not read its replies.
	writeTimeout = 10 * time.Second

	// maxPending is the limit of queued reply bytes. Above it, the client has
	// evidently stopped reading, and the connection is reset.
	maxPending = 16 << 20

	// readBuffer holds the largest message with its length, plus one TLS record.
	readBuffer = 2 + 65535 + 16384
)

// conn is one TCP or TLS connection. Its goroutine reads. Replies are queued by any
// goroutine; one goroutine at a time writes all that are queued.
type conn struct {
	s   *Server
	raw net.Conn
	nc  net.Conn // raw, or TLS over it
	req Request  // template for the requests of this connection

	mu      sync.Mutex
	pending []byte // replies to be written
	spare   []byte // second buffer, swapped with pending
	writing bool
	then    End
	closed  bool
	done    chan struct{} // closed with the connection
}

func newConn(s *Server, raw net.Conn, secure bool, id uint64) *conn {
	c := &conn{s: s, raw: raw, nc: raw, done: make(chan struct{})}
	c.req = Request{
		Transport: TCP,
		Remote:    addrPort(raw.RemoteAddr()),
		Local:     addrPort(raw.LocalAddr()),
		Conn:      id,
	}
	if secure {
		c.req.Transport = TLS
		c.nc = tls.Server(raw, s.tls)
	}
	return c
}

// run serves the connection until it is closed.
func (c *conn) run() {
	defer c.close(Close)
	if t, ok := c.nc.(*tls.Conn); ok && !c.handshake(t) {
		return
	}
	buf := make([]byte, 0, readBuffer)
	for {
		if idle := c.s.cfg.IdleTimeout; idle > 0 {
			_ = c.nc.SetReadDeadline(time.Now().Add(idle))
		}
		n, err := c.nc.Read(buf[len(buf):cap(buf)])
		if n > 0 {
			c.s.counters.read(n)
			buf = c.consume(buf[:len(buf)+n])
		}
		if err != nil {
			return
		}
	}
}

func (c *conn) handshake(t *tls.Conn) bool {
	_ = c.raw.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := t.Handshake(); err != nil {
		c.s.failed.Add(1)
		return false
	}
	_ = c.raw.SetDeadline(time.Time{})
	c.s.handshakes.Add(1)
	if t.ConnectionState().DidResume {
		c.s.resumed.Add(1)
	}
	return true
}

// consume handles every complete message in buf and returns the remaining bytes, moved
// to the start of the buffer.
func (c *conn) consume(buf []byte) []byte {
	rest := buf
	for len(rest) >= 2 {
		n := 2 + (int(rest[0])<<8 | int(rest[1]))
		if len(rest) < n {
			break
		}
		c.req.Query = rest[2:n:n]
		c.req.N++
		req := c.req
		c.dispatch(c.s.handle(&req))
		rest = rest[n:]
	}
	c.flush()
	return buf[:copy(buf, rest)]
}

// dispatch sends an answer after its delay.
func (c *conn) dispatch(a Answer) {
	if a.Wait == nil && a.Delay == 0 {
		c.put(a)
		return
	}
	go func() {
		if a.Wait != nil {
			select {
			case <-a.Wait:
			case <-c.done:
				return
			}
		}
		t := time.NewTimer(a.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.done:
			return
		}
		c.put(a)
		c.flush()
	}()
}

// put queues an answer.
func (c *conn) put(a Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.then != Keep {
		return // the connection closes after earlier replies
	}
	if a.Msg != nil {
		c.pending = append(c.pending, Frame(a.Msg)...)
	}
	c.pending = append(c.pending, a.Raw...)
	c.then = a.Then
	if len(c.pending) > maxPending {
		c.then = Reset
	}
}

// flush writes the queued replies, unless another goroutine is writing.
func (c *conn) flush() {
	c.mu.Lock()
	for !c.writing && !c.closed && (len(c.pending) > 0 || c.then != Keep) {
		out, then := c.pending, c.then
		c.pending, c.spare = c.spare[:0], nil
		c.writing = true
		c.mu.Unlock()
		var err error
		if len(out) > 0 {
			_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err = c.nc.Write(out)
		}
		if err != nil && then == Keep {
			then = Reset
		}
		if then != Keep {
			c.close(then)
		}
		c.mu.Lock()
		c.writing = false
		c.spare = out[:0]
	}
	c.mu.Unlock()
}

// close closes the connection. Later calls do nothing.
func (c *conn) close(how End) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.mu.Unlock()
	close(c.done)
	if how == Reset {
		if t, ok := c.raw.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		_ = c.raw.Close()
		return
	}
	_ = c.nc.Close()
}
