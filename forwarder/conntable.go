// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"container/list"
	"net"
	"sync"
)

// connTable bounds the TCP connections held. When it is full, the one whose last
// query is longest ago makes place, so that idle connections of one client
// cannot keep others out.
type connTable struct {
	max   int
	mu    sync.Mutex
	order *list.List // of *net.TCPConn, most recently used first
}

func newConnTable(limit int) *connTable {
	return &connTable{max: limit, order: list.New()}
}

// enter adds c and returns its place.
func (t *connTable) enter(c *net.TCPConn) *list.Element {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.order.Len() >= t.max {
		oldest := t.order.Remove(t.order.Back()).(*net.TCPConn)
		_ = oldest.CloseRead() // its own goroutine pays what it owes and closes it
	}
	return t.order.PushFront(c)
}

// touch says that a query came on the connection.
func (t *connTable) touch(e *list.Element) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.order.MoveToFront(e) // nothing, if it was put out
}

// leave takes the connection off.
func (t *connTable) leave(e *list.Element) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.order.Remove(e)
}
