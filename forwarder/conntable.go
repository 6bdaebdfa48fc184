// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"container/list"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// connTable bounds the TCP connections held. When it is full, the one whose last
// query is longest ago makes place, so that idle connections of one client
// cannot keep others out.
type connTable struct {
	max   int
	mu    sync.Mutex
	order *list.List // of *net.TCPConn, most recently used first
}

// newConnTable returns a table of at most limit connections, or of as many as
// leave a quarter of the process's descriptors to others: without one for an
// upstream's connection there would be no answer for anybody.
func newConnTable(limit int) *connTable {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		limit = int(min(uint64(limit), max(1, files.Cur/4*3)))
	}
	return &connTable{max: limit, order: list.New()}
}

// enter adds c and returns its place.
func (t *connTable) enter(c *net.TCPConn) *list.Element {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.order.Len() >= t.max {
		t.evict()
	}
	return t.order.PushFront(c)
}

// makePlace puts one connection in eight out, and one at least if there is any:
// descriptors have run out, and more clients wait.
func (t *connTable) makePlace() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range (t.order.Len() + 7) / 8 {
		t.evict()
	}
}

// evict puts the connection out whose last query is longest ago; t.mu is held.
func (t *connTable) evict() {
	oldest := t.order.Remove(t.order.Back()).(*net.TCPConn)
	_ = oldest.CloseRead() // its own goroutine pays what it owes and closes it
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
