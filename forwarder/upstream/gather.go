// SPDX-License-Identifier: Apache-2.0

package upstream

import "sync"

// gather lies between TLS and TCP: what is written while it holds leaves in one
// system call and, as far as it goes, in one packet. So queries that wait
// together share these, and yet each has a TLS record of its own. Several in one
// record would be smaller by 22 bytes each, but there are servers (nsd 4.6 is
// one) that answer the first query of a record, and look at the rest only when
// the socket brings more.
type gather struct {
	*acker
	mu   sync.Mutex // crypto/tls writes from the reader too: alerts, key updates
	held bool
	buf  []byte
}

// Write writes p, or keeps a copy of it.
func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held {
		return g.Conn.Write(p)
	}
	g.buf = append(g.buf, p...)
	return len(p), nil
}

// hold keeps what is written from here on.
func (g *gather) hold() {
	g.mu.Lock()
	g.held = true
	g.mu.Unlock()
}

// flush writes what was kept.
func (g *gather) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	_, err := g.Conn.Write(g.buf)
	g.buf = g.buf[:0]
	if cap(g.buf) > 4*maxGather {
		g.buf = nil // a burst's buffer is not kept
	}
	return err
}
