// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"container/list"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// clientShare is the part of the connections that one client may hold. On
	// loopback many programs are one client: so it is a large part, and never a
	// small number.
	clientShare = 4
	clientLeast = 64

	// leavingShare is how many connections beside those in the table may be open
	// because they are still owed a reply, as a part of those in it.
	leavingShare = 8
)

// connTable bounds the TCP connections held. When it is full, the one whose last
// query is longest ago makes place, so that idle connections cannot keep others
// out; a client that holds its share makes place for itself. Who made place gets
// the replies it is owed, unless too many wait for that: then the one that has done
// so for longest is reset. So no more are open than the limit and an eighth of it.
type connTable struct {
	max     int
	fair    int
	late    int // how many may be leaving
	mu      sync.Mutex
	order   *list.List // of *seat, most recently used first
	leaving *list.List // of *seat, put out and not gone yet, the latest first
	clients map[source]*list.List
}

// seat is a connection's place in the table.
type seat struct {
	c      *net.TCPConn
	client source
	all    *list.Element // in order; nil: it was put out, or has left
	own    *list.Element // in its client's list
	out    *list.Element // in leaving
}

// newConnTable returns a table of at most limit connections, or of as many as
// leave a quarter of the process's descriptors to others: without one for an
// upstream's connection there would be no answer for anybody.
func newConnTable(limit int) *connTable {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		limit = int(min(uint64(limit), max(1, files.Cur/4*3)))
	}
	return &connTable{
		max: limit, fair: min(limit, max(clientLeast, limit/clientShare)), late: max(1, limit/leavingShare),
		order: list.New(), leaving: list.New(), clients: make(map[source]*list.List),
	}
}

// enter gives a client's connection a place.
func (t *connTable) enter(c *net.TCPConn, client source) *seat {
	s := &seat{c: c, client: client}
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.clients[s.client]
	switch {
	case own != nil && own.Len() >= t.fair:
		t.evict(own)
	case t.order.Len() >= t.max:
		t.evict(t.order)
	}
	if own = t.clients[s.client]; own == nil {
		own = list.New()
		t.clients[s.client] = own
	}
	s.all, s.own = t.order.PushFront(s), own.PushFront(s)
	return s
}

// makePlace puts one connection in eight out, and one at least if there is any:
// descriptors have run out, and more clients wait.
func (t *connTable) makePlace() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range (t.order.Len() + 7) / 8 {
		t.evict(t.order)
	}
}

// evict puts that connection of the list out whose last query is longest ago;
// t.mu is held.
func (t *connTable) evict(from *list.List) {
	s := from.Back().Value.(*seat)
	t.remove(s)
	s.out = t.leaving.PushFront(s)
	_ = s.c.CloseRead() // its own goroutine pays what it owes and closes it
	if t.leaving.Len() > t.late {
		s = t.leaving.Back().Value.(*seat)
		t.remove(s)
		_ = s.c.SetLinger(0)
		_ = s.c.Close()
	}
}

// remove takes s off, if it is still there; t.mu is held.
func (t *connTable) remove(s *seat) {
	if s.out != nil {
		t.leaving.Remove(s.out)
		s.out = nil
	}
	if s.all == nil {
		return
	}
	own := t.clients[s.client]
	t.order.Remove(s.all)
	own.Remove(s.own)
	s.all, s.own = nil, nil
	if own.Len() == 0 {
		delete(t.clients, s.client)
	}
}

// touch says that a query came on the connection.
func (t *connTable) touch(s *seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.all != nil {
		t.order.MoveToFront(s.all)
		t.clients[s.client].MoveToFront(s.own)
	}
}

// leave takes the connection off.
func (t *connTable) leave(s *seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(s)
}

// len is how many there are, those included that are leaving.
func (t *connTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.order.Len() + t.leaving.Len()
}
