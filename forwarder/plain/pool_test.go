// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// TestIdleLimits: each query in flight has a socket of its own. Of these sockets a limited
// number is kept.
func TestIdleLimits(t *testing.T) {
	const owners, each = 6, maxIdle + 8
	var log portLog
	var held []func()
	at := udpServer(t, func(query []byte, send func([]byte), from netip.AddrPort) {
		log.add(from)
		if held = append(held, func() { send(reply(query)) }); len(held) == each {
			for _, f := range held {
				f()
			}
			held = nil
		}
	})
	c := pooling(t, Config{})
	c.resend = nil
	for owner := range uint64(owners) {
		var wg sync.WaitGroup
		for range each {
			wg.Go(func() { exchange(t, c, at, owner) })
		}
		wg.Wait()
		if n := len(c.pool.idle); n != min(maxIdleTotal, int(owner+1)*maxIdle) {
			t.Errorf("%d idle sockets for %d owners", n, owner+1)
		}
	}
	ports := map[uint16]int{}
	for i, p := range log.all() {
		if j, ok := ports[p]; ok && j/each == i/each {
			t.Errorf("port %d has two queries in flight", p)
		}
		ports[p] = i
	}
}

// TestIdleSocketsExpire: idle sockets are closed at the end of their life, and then no timer is
// left.
func TestIdleSocketsExpire(t *testing.T) {
	s := serve(t, loopback, echo())
	before := descriptors(t)
	c := New(Config{})
	c.life = 20 * time.Millisecond
	for owner := range uint64(5) {
		exchange(t, c, s.Addr(), owner)
	}
	state := func() (idle int, timer bool) {
		c.pool.mu.Lock()
		defer c.pool.mu.Unlock()
		return len(c.pool.idle), c.pool.timer != nil
	}
	for end := inAWhile(); ; time.Sleep(time.Millisecond) {
		idle, timer := state()
		if idle == 0 && !timer && descriptors(t) <= before {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d idle sockets, a timer: %v", idle, timer)
		}
	}
}

// TestOpenFiles: idle sockets are closed if there are too many open files.
func TestOpenFiles(t *testing.T) {
	first, second := serve(t, loopback, echo()), serve(t, loopback, echo())
	c := pooling(t, Config{})
	exchange(t, c, first.Addr(), 0)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 128, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }()
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
	}
	exchange(t, c, second.Addr(), 0)
}

// TestPoolRaces: queries, cancellations, and changes of the network run concurrently, and no
// socket remains.
func TestPoolRaces(t *testing.T) {
	s := serve(t, loopback, echo())
	before := descriptors(t)
	c := New(Config{})
	c.life = 5 * time.Millisecond
	query := ask(t, "a.", dns.TypeA)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == worker%5 {
					go cancel()
				}
				reply, err := c.Exchange(ctx, s.Addr(), uint64(worker%2), query, false, inAWhile())
				if err == nil && !wire.SameQuestion(query, reply) || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("%x, %v", reply, err)
				}
				cancel()
				if i%50 == 0 {
					c.NetworkChanged()
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	if n := descriptors(t); n > before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}
