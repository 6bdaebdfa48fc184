// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Limits of the reuse of a socket. The package documentation has the reasons.
const (
	// socketLife is the time after which a socket sends no more queries. It is shorter than the
	// two seconds after which connection tracking keeps an entry for longer.
	socketLife = time.Second

	// A socket sends minUses to maxUses queries; the number is random.
	minUses, maxUses = 16, 64

	// maxIdle limits the idle sockets of one key, maxIdleTotal those of all.
	maxIdle, maxIdleTotal = 32, 128
)

// poolKey is what the queries that share a socket have in common.
type poolKey struct {
	to    netip.AddrPort
	owner uint64
}

// socket is a connected UDP socket. It is in a pool or in use by one query.
type socket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	key     poolKey
	expires time.Time
	uses    int // number of queries that it may still send
	epoch   int // of the pool, when the socket was opened
}

func (s *socket) close() { _ = s.conn.Close() }

// quiet reports whether nothing has arrived since the last reply: neither a datagram nor an
// ICMP error.
func (s *socket) quiet() bool {
	quiet := false
	err := s.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
	})
	return err == nil && quiet
}

// pool has the idle sockets of a client. It has a timer only while it contains any, and at most
// one socketLife longer. The zero value is empty.
type pool struct {
	mu     sync.Mutex
	idle   []*socket
	timer  *time.Timer // calls expire
	wake   time.Time   // when it does so
	epoch  int
	closed bool
}

// current returns the epoch, which [pool.reset] ends.
func (p *pool) current() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// take removes one of the sockets with a key, chosen at random, and returns it; nil if there is
// none. What has arrived at sockets was unexpected: such sockets are closed.
func (p *pool) take(key poolKey) *socket {
	for {
		s := p.pick(key, time.Now())
		if s == nil || s.quiet() {
			return s
		}
		s.close()
	}
}

func (p *pool) pick(key poolKey, now time.Time) *socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.count(key, now)
	if n == 0 {
		return nil
	}
	skip := randomBelow(n)
	for i, s := range p.idle {
		if s.key != key || !now.Before(s.expires) {
			continue
		}
		if skip--; skip < 0 {
			last := len(p.idle) - 1
			p.idle[i] = p.idle[last]
			p.idle[last] = nil
			p.idle = p.idle[:last]
			return s
		}
	}
	return nil // not reached
}

// count returns the number of sockets that a query with a key can use. p.mu is held.
func (p *pool) count(key poolKey, now time.Time) (n int) {
	for _, s := range p.idle {
		if s.key == key && now.Before(s.expires) {
			n++
		}
	}
	return n
}

// put adds a socket, or closes it if it must not be used again or the pool is full.
func (p *pool) put(s *socket) {
	if !p.add(s, time.Now()) {
		s.close()
	}
}

func (p *pool) add(s *socket, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.uses <= 0 || !now.Before(s.expires) || s.epoch != p.epoch || p.closed ||
		len(p.idle) >= maxIdleTotal || p.count(s.key, now) >= maxIdle {
		return false
	}
	p.idle = append(p.idle, s)
	p.arm(s.expires, now)
	return true
}

// arm makes the timer expire at the time at, if it would not earlier. p.mu is held.
func (p *pool) arm(at, now time.Time) {
	switch {
	case p.timer == nil:
		p.timer = time.AfterFunc(at.Sub(now), p.expire)
	case at.Before(p.wake):
		p.timer.Reset(at.Sub(now))
	default:
		return
	}
	p.wake = at
}

// expire closes the sockets whose time is over.
func (p *pool) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.disarm()
	p.idle = slices.DeleteFunc(p.idle, func(s *socket) bool {
		if now.Before(s.expires) {
			p.arm(s.expires, now)
			return false
		}
		s.close()
		return true
	})
}

// disarm stops the timer. p.mu is held.
func (p *pool) disarm() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// reset closes all idle sockets and ends the epoch: sockets in use are closed after their query.
// It returns the number of closed sockets.
func (p *pool) reset() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disarm()
	n := len(p.idle)
	for _, s := range p.idle {
		s.close()
	}
	clear(p.idle)
	p.idle = p.idle[:0]
	p.epoch++
	return n
}

// close is reset for the last time: later sockets are not kept.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.reset()
}

// randomUses returns how many queries a new socket may send.
func randomUses() int { return minUses + randomBelow(maxUses-minUses+1) }

// randomBelow returns a random number that is at least 0 and less than n, which is small.
func randomBelow(n int) int {
	if n == 1 {
		return 0
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // its error is always nil
	return int(binary.NativeEndian.Uint32(b[:]) % uint32(n))
}
