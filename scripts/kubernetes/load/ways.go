// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// asker sends queries in one way.
type asker interface {
	ask(n int) // sends query n; it does not wait for the reply
	wait()     // waits until each query has a reply or is lost
}

func (o *options) asker(name string, t *tally) (asker, error) {
	switch name {
	case "fresh":
		return &fresh{o: o, t: t}, nil
	case "connected":
		return &persistent{o: o, t: t, network: "udp"}, nil
	case "tcp":
		return &persistent{o: o, t: t, network: "tcp"}, nil
	}
	return nil, fmt.Errorf("unknown way %q: use fresh, connected or tcp", name)
}

// fresh asks from a new UDP socket each time.
type fresh struct {
	o  *options
	t  *tally
	wg sync.WaitGroup
}

func (f *fresh) ask(n int) {
	f.t.sent()
	f.wg.Go(func() {
		start := time.Now()
		c := dns.Client{Net: "udp", Timeout: f.o.timeout}
		m, _, err := c.Exchange(f.o.question(n), f.o.server)
		if err != nil {
			f.t.lost(err)
			return
		}
		f.t.reply(m, f.o.want, start)
	})
}

func (f *fresh) wait() { f.wg.Wait() }

// persistent asks over one socket, which it replaces only after an error.
type persistent struct {
	o       *options
	t       *tally
	network string

	mu      sync.Mutex
	conn    *dns.Conn
	pending map[uint16]time.Time // when each query was sent, by its ID
}

func (p *persistent) ask(n int) {
	p.t.sent()
	p.expire()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		conn, err := dns.DialTimeout(p.network, p.o.server, p.o.timeout)
		if err != nil {
			p.t.lost(err)
			return
		}
		p.conn, p.pending = conn, map[uint16]time.Time{}
		go p.read(conn)
	}
	m := p.o.question(n)
	p.pending[m.Id] = time.Now()
	_ = p.conn.SetWriteDeadline(time.Now().Add(p.o.timeout))
	if err := p.conn.WriteMsg(m); err != nil {
		p.fail(p.conn, err)
	}
}

// read receives replies until the socket fails.
func (p *persistent) read(conn *dns.Conn) {
	for {
		m, err := conn.ReadMsg()
		p.mu.Lock()
		if err != nil {
			p.fail(conn, err)
			p.mu.Unlock()
			return
		}
		start, found := p.pending[m.Id]
		delete(p.pending, m.Id)
		p.mu.Unlock()
		if found {
			p.t.reply(m, p.o.want, start)
		}
	}
}

// fail closes the socket after an error. Its pending queries are lost. p.mu is locked.
func (p *persistent) fail(conn *dns.Conn, err error) {
	if p.conn != conn {
		return
	}
	p.t.reset(err)
	for range p.pending {
		p.t.lost(err)
	}
	p.close()
}

func (p *persistent) close() {
	_ = p.conn.Close()
	p.conn, p.pending = nil, nil
}

// errTimeout is the error of queries without a reply.
var errTimeout = errors.New("no reply: " + os.ErrDeadlineExceeded.Error())

// expire counts queries without a reply.
func (p *persistent) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, sent := range p.pending {
		if time.Since(sent) > p.o.timeout {
			delete(p.pending, id)
			p.t.lost(errTimeout)
		}
	}
}

func (p *persistent) wait() {
	for {
		p.expire()
		p.mu.Lock()
		if p.conn == nil || len(p.pending) == 0 {
			if p.conn != nil {
				p.close()
			}
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}
