// SPDX-License-Identifier: Apache-2.0

package servertest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
)

// Relay is a path to a server on loopback that a test can interrupt.
type Relay struct {
	Addr netip.AddrPort

	to      netip.AddrPort
	first   atomic.Pointer[func([]byte) Interference]
	long    atomic.Bool                 // see DropLong
	current atomic.Pointer[atomic.Bool] // set: connections that are open then drop everything

	mu   sync.Mutex
	open []net.Conn // of TCP, both ends
}

// Interference is what a relay does with the first data of a connection.
type Interference string

const (
	PassIt  Interference = "pass"
	ResetIt Interference = "reset" // the connection is reset
	EndIt   Interference = "end"   // it is closed
	DropIt  Interference = "drop"  // it stays open, and everything is dropped
)

func (i Interference) String() string { return string(i) }

// Set makes f decide over the connections of TCP by their first data from the client.
func (r *Relay) Set(f func(data []byte) Interference) { r.first.Store(&f) }

// DropLong drops all packets of UDP from an address whose first two follow each other at
// once.
func (r *Relay) DropLong() { r.long.Store(true) }

// NewRelay returns a relay for "TCP" or "UDP" that runs until the test ends.
func NewRelay(tb testing.TB, network string, to netip.AddrPort) *Relay {
	tb.Helper()
	r := &Relay{to: to}
	r.current.Store(&atomic.Bool{})
	if network == "UDP" {
		r.relayUDP(tb)
	} else {
		r.relayTCP(tb)
	}
	return r
}

// DropOpen drops everything on the connections that are open, without closing them. What is sent on
// them is not acknowledged; where the kernel refuses that to this process, it returns an error.
func (r *Relay) DropOpen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.Swap(&atomic.Bool{}).Store(true)
	var errs []error
	for _, c := range r.open {
		errs = append(errs, dropSegments(c))
	}
	return errors.Join(errs...)
}

// dropSegments makes the kernel drop what arrives at a socket of TCP, if that is not closed.
func dropSegments(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil
	}
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	_ = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
	})
	if err != nil {
		return fmt.Errorf("attach a filter to a socket: %w", err)
	}
	return nil
}

// MustDropOpen is DropOpen, and skips the test if segments would be acknowledged.
func (r *Relay) MustDropOpen(tb testing.TB) {
	tb.Helper()
	if err := r.DropOpen(); err != nil {
		Skip(tb, err.Error())
	}
}

// AddrOf returns an address of package net as one of netip.
func AddrOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

func (r *Relay) relayTCP(tb testing.TB) {
	l, err := dnstest.Listen(netip.AddrPortFrom(Loopback, 0))
	if err != nil {
		tb.Fatal(err)
	}
	r.Addr = AddrOf(l.Addr())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", r.to.String())
			if err != nil {
				client.Close()
				continue
			}
			r.mu.Lock()
			r.open = append(r.open, client, server)
			dropped := r.current.Load()
			r.mu.Unlock()
			wg.Go(func() { r.copy(client, server, dropped, r.first.Load()) })
			wg.Go(func() { r.copy(server, client, dropped, nil) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range r.open {
			c.Close()
		}
		r.mu.Unlock()
		wg.Wait()
	})
}

// copy passes data on until one end closes.
func (r *Relay) copy(from, to net.Conn, dropped *atomic.Bool, first *func([]byte) Interference) {
	buf := make([]byte, 1<<16)
	drop := false
	for {
		n, err := from.Read(buf)
		if first != nil && n > 0 {
			switch (*first)(buf[:n]) {
			case ResetIt:
				_ = from.(*net.TCPConn).SetLinger(0)
				fallthrough
			case EndIt:
				from.Close()
				to.Close()
				return
			case DropIt:
				drop = true
			}
			first = nil
		}
		if (drop || dropped.Load()) && err == nil {
			continue
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			from.Close()
			to.Close()
			return
		}
	}
}

func (r *Relay) relayUDP(tb testing.TB) {
	listener, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Loopback, 0)))
	if err != nil {
		tb.Fatal(err)
	}
	r.Addr = AddrOf(listener.LocalAddr())
	var wg sync.WaitGroup
	var servers []net.Conn
	wg.Go(func() {
		defer func() {
			for _, c := range servers {
				c.Close()
			}
		}()
		paths := map[netip.AddrPort]func([]byte){}
		buf := make([]byte, 1<<16)
		for {
			n, from, err := listener.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if paths[from] == nil {
				server, err := net.Dial("udp", r.to.String())
				if err != nil {
					continue
				}
				servers = append(servers, server)
				dropped := r.current.Load()
				path := &udpPath{server: server, dropped: dropped}
				if r.long.Load() {
					paths[from] = path.passShort
				} else {
					paths[from] = path.pass
				}
				wg.Go(func() {
					buf := make([]byte, 1<<16)
					for {
						n, err := server.Read(buf)
						if err != nil {
							return
						}
						if !dropped.Load() {
							_, _ = listener.WriteToUDPAddrPort(buf[:n], from)
						}
					}
				})
			}
			paths[from](buf[:n])
		}
	})
	tb.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
}

// udpPath is the way from one client to the server.
type udpPath struct {
	server  net.Conn
	dropped *atomic.Bool

	mu     sync.Mutex
	first  []byte // the first packet, until it is passed on
	opened bool   // packets are passed on
	dead   bool   // packets are dropped
}

// pass passes a packet on.
func (p *udpPath) pass(b []byte) {
	if !p.dropped.Load() {
		_, _ = p.server.Write(b)
	}
}

// passShort passes packets on, unless a second one follows the first at once.
func (p *udpPath) passShort(b []byte) {
	const together = 40 * time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.dead:
	case p.opened:
		p.pass(b)
	case p.first != nil:
		p.dead = true
	default:
		p.first = bytes.Clone(b)
		time.AfterFunc(together, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.dead {
				p.opened = true
				p.pass(p.first)
			}
		})
	}
}
