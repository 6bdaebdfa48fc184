// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"net"
	"sync"
	"time"
)

// gather sits between TLS and TCP. Data written between hold and flush is sent in one
// system call and, if it fits, in one packet, so that queries that are pending together
// share these although each has a TLS record of its own. Several queries in one record
// would save 22 bytes each, but some servers (nsd 4.6) answer the first query of a record
// and process the others only when more data arrives on the socket.
type gather struct {
	*acker

	// writeTimeout limits a write that is not held. It is 0 during the handshake, which has a
	// limit of its own, and set before concurrent use.
	writeTimeout time.Duration

	mu   sync.Mutex // crypto/tls also writes from the reader: alerts and key updates
	held bool
	buf  []byte
}

// newGather returns a gather for a socket.
func newGather(c *net.TCPConn) (net.Conn, error) {
	acks, err := newAcker(c)
	if err != nil {
		return nil, err
	}
	return &gather{acker: acks}, nil
}

// Write implements [net.Conn]. While data is held, it keeps a copy of p. Otherwise it sets a
// deadline: that of the latest queries may have passed when crypto/tls answers a KeyUpdate (RFC
// 8446 §4.6.3), and a failed write breaks the connection.
func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held {
		if g.writeTimeout > 0 {
			if err := g.Conn.SetWriteDeadline(time.Now().Add(g.writeTimeout)); err != nil {
				return 0, err
			}
		}
		return g.Conn.Write(p)
	}
	g.buf = append(g.buf, p...)
	return len(p), nil
}

// hold makes Write keep data until flush.
func (g *gather) hold() {
	g.mu.Lock()
	g.held = true
	g.mu.Unlock()
}

// flush writes the data that was kept.
func (g *gather) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	_, err := g.Conn.Write(g.buf)
	g.buf = g.buf[:0]
	if cap(g.buf) > 4*maxGather {
		g.buf = nil // free the buffer of a burst
	}
	return err
}
