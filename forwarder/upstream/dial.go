// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// keepAlive finds out that an idle connection is dead, so that it is reopened
// before a query needs it, at the cost of a packet in half a minute.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}

// dial is one connection being opened. Everybody who needs it waits for done.
type dial struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	err    error // set before done is closed
}

// dialError is the failure of a dial, shared by all who waited for it.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDial(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

// dial opens a connection in the background, or returns the dial in progress.
// It does not end with the caller, since others wait for it as well; p.mu is
// held.
func (p *pool) dial(ctx context.Context) *dial {
	if p.dialing != nil {
		return p.dialing
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	d := &dial{done: make(chan struct{}), cancel: cancel}
	p.dialing = d
	p.wg.Go(func() {
		defer cancel(nil)
		began := time.Now()
		c, err := p.open(ctx)
		p.opened(d, c, err, began)
		if c != nil && err == nil {
			c.run()
		}
	})
	return d
}

// opened ends a dial: c joins the connections, or err is everybody's.
func (p *pool) opened(d *dial, c *conn, err error, began time.Time) {
	p.mu.Lock()
	p.dialing = nil
	if err == nil && p.closed {
		err = ErrClosed
	}
	if err == nil {
		p.retireAged()
		p.conns = append(p.conns, c)
		p.dialErr = nil
	} else {
		d.err = &dialError{err}
		if !errors.Is(err, errNetwork) {
			p.dialErr, p.dialErrAt = d.err, time.Now()
		}
	}
	p.mu.Unlock()
	close(d.done)
	switch {
	case err == nil:
		p.log.Debug("connection opened", "server", p.server.String(), "took", time.Since(began))
	case errors.Is(err, errNetwork):
	case errors.Is(err, ErrClosed):
		if c != nil {
			_ = c.nc.Close()
		}
	default:
		p.failed(began, err)
	}
}

// open connects to one of the server's addresses.
func (p *pool) open(ctx context.Context) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	h, err := p.race(dialCtx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	if h.resumed {
		p.count.resumed.Add(1)
	}
	p.won(h)
	c := newConn(p.cfg, h.nc, h.raw, p.count, p.gone)
	p.mu.Lock()
	c.limit = p.limit.at(time.Now())
	p.mu.Unlock()
	return c, nil
}

// won remembers the address that worked, and tells of a server that had to be
// taken unauthenticated: once, and again when the reason is another.
func (p *pool) won(h *handshake) {
	reason := ""
	if h.untrusted != nil {
		reason = h.untrusted.reason
	}
	p.mu.Lock()
	p.best = h.addr
	before := p.untrusted
	p.untrusted = reason
	p.mu.Unlock()
	switch {
	case reason == before:
	case reason != "":
		p.log.Warn("upstream is not authenticated, and used nevertheless (profile opportunistic)",
			"server", p.server.String(), "reason", reason)
	default:
		p.log.Info("upstream is authenticated now", "server", p.server.String())
	}
}

// secure opens one TLS connection to that address, and authenticates the server.
func (p *pool) secure(ctx context.Context, addr netip.AddrPort) (*handshake, error) {
	h := &handshake{addr: addr, sessions: p.sessionsOf(addr)}
	err := p.connect(ctx, h)
	if errors.Is(err, syscall.EINPROGRESS) {
		// TCP Fast Open: the kernel meant to send the first bytes with the SYN, and
		// then could not. From now on it is not asked for that.
		p.slowOpen.Store(true)
		h = &handshake{addr: addr, sessions: h.sessions}
		err = p.connect(ctx, h)
	}
	var untrusted *trustError
	if h.resumed && errors.As(err, &untrusted) {
		// What is not trusted is the certificate of the session's first
		// handshake; the server may have a new one by now.
		h.sessions.clear()
		h = &handshake{addr: addr, sessions: h.sessions}
		err = p.connect(ctx, h)
	}
	if err == nil {
		return h, nil
	}
	if cause := context.Cause(ctx); cause == nil || errors.Is(cause, context.DeadlineExceeded) {
		p.count.dialErrors.Add(1) // it failed; it was not called off
	}
	if len(p.server.Also) > 0 {
		err = &addrError{addr: addr, err: err}
	}
	return nil, err
}

// connect does what secure says, once. The sockets are made where the program runs,
// and have TCP_NODELAY, which is Go's default: queries are coalesced here.
func (p *pool) connect(ctx context.Context, h *handshake) error {
	p.count.dials.Add(1)
	dialer := net.Dialer{Control: p.control, KeepAliveConfig: keepAlive}
	socket, err := dialer.DialContext(ctx, "tcp", h.addr.String())
	if err != nil {
		return err
	}
	acks, err := newAcker(socket.(*net.TCPConn))
	if err != nil {
		_ = socket.Close()
		return err
	}
	h.raw = &gather{acker: acks}
	h.nc = tls.Client(h.raw, p.verify.config(h))
	if err := h.nc.HandshakeContext(ctx); err != nil {
		_ = h.raw.Close()
		return err
	}
	return nil
}

// control prepares a socket before it connects.
func (p *pool) control(network, address string, c syscall.RawConn) error {
	if p.cfg.Control != nil {
		if err := p.cfg.Control(network, address, c); err != nil {
			return err
		}
	}
	if !p.slowOpen.Load() {
		fastOpen(c)
	}
	return nil
}

// addrError is the failure of one of a server's several addresses.
type addrError struct {
	addr netip.AddrPort
	err  error
}

func (e *addrError) Error() string { return e.addr.String() + ": " + e.err.Error() }
func (e *addrError) Unwrap() error { return e.err }
