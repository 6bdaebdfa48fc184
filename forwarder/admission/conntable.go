// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"container/list"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// clientFraction is the part of the connections that one client may hold: a
	// quarter, but at least [MinClientConns]. On loopback many programs are one
	// client, so the share is large.
	clientFraction = 4

	// MinClientConns is the number of connections that one client may always hold,
	// within the table's limit.
	MinClientConns = 64

	// DrainingFraction limits the evicted connections that are still open because
	// replies are pending, as a fraction of the table's limit: an eighth.
	DrainingFraction = 8

	// evictFraction is the part of the connections that [ConnTable.EvictSome]
	// evicts.
	evictFraction = 8
)

// ConnTable limits open TCP connections. When full it evicts the least recently
// used, so that idle connections cannot keep new clients out; a client over its
// share evicts its own. An evicted connection still gets its pending replies. If
// too many evicted connections are draining, the one that was evicted first is
// reset. At most the limit and an eighth of it are open.
type ConnTable struct {
	max         int
	maxClient   int // connections of one client
	maxDraining int

	mu       sync.Mutex
	lru      *list.List // of *ConnEntry, most recently used first
	draining *list.List // of *ConnEntry, evicted and not yet removed, latest first
	clients  map[Source]*list.List
}

// ConnEntry is a connection's entry in a [ConnTable].
type ConnEntry struct {
	conn            *net.TCPConn
	client          Source
	lruElement      *list.Element // nil once evicted or removed
	clientElement   *list.Element // in the client's list, likewise
	drainingElement *list.Element
}

// NewConnTable returns a table for at most limit connections, or for three quarters
// of the open files that the process may have, if that is less: without a
// descriptor for an upstream connection no query could be answered.
func NewConnTable(limit int) *ConnTable {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		limit = int(min(uint64(limit), max(1, files.Cur/4*3)))
	}
	return &ConnTable{
		max:         limit,
		maxClient:   min(limit, max(MinClientConns, limit/clientFraction)),
		maxDraining: max(1, limit/DrainingFraction),
		lru:         list.New(), draining: list.New(), clients: make(map[Source]*list.List),
	}
}

// Add adds a client's connection and evicts another one if necessary.
func (t *ConnTable) Add(c *net.TCPConn, client Source) *ConnEntry {
	e := &ConnEntry{conn: c, client: client}
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.clients[e.client]
	switch {
	case own != nil && own.Len() >= t.maxClient:
		t.evictLast(own)
	case t.lru.Len() >= t.max:
		t.evictLast(t.lru)
	}
	if own = t.clients[e.client]; own == nil {
		own = list.New()
		t.clients[e.client] = own
	}
	e.lruElement, e.clientElement = t.lru.PushFront(e), own.PushFront(e)
	return e
}

// EvictSome evicts an eighth of the connections, and at least one if there is any.
// It is called when the process has no descriptors left for new clients.
func (t *ConnTable) EvictSome() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range (t.lru.Len() + evictFraction - 1) / evictFraction {
		t.evictLast(t.lru)
	}
}

// evictLast evicts the last entry of a list, the least recently used. The caller
// holds t.mu.
func (t *ConnTable) evictLast(from *list.List) {
	e := from.Back().Value.(*ConnEntry)
	t.remove(e)
	e.drainingElement = t.draining.PushFront(e)
	_ = e.conn.CloseRead() // its goroutine sends the pending replies and closes it
	if t.draining.Len() > t.maxDraining {
		e = t.draining.Back().Value.(*ConnEntry)
		t.remove(e)
		_ = e.conn.SetLinger(0)
		_ = e.conn.Close()
	}
}

// remove removes e from all lists that contain it. The caller holds t.mu.
func (t *ConnTable) remove(e *ConnEntry) {
	if e.drainingElement != nil {
		t.draining.Remove(e.drainingElement)
		e.drainingElement = nil
	}
	if e.lruElement == nil {
		return
	}
	own := t.clients[e.client]
	t.lru.Remove(e.lruElement)
	own.Remove(e.clientElement)
	e.lruElement, e.clientElement = nil, nil
	if own.Len() == 0 {
		delete(t.clients, e.client)
	}
}

// Touch marks e as most recently used: a query arrived on the connection.
func (t *ConnTable) Touch(e *ConnEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.lruElement != nil {
		t.lru.MoveToFront(e.lruElement)
		t.clients[e.client].MoveToFront(e.clientElement)
	}
}

// Remove removes e. The caller closes the connection.
func (t *ConnTable) Remove(e *ConnEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(e)
}

// Len returns the number of connections, draining ones included.
func (t *ConnTable) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lru.Len() + t.draining.Len()
}
