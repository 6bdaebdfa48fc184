// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"sotto/forwarder/upstream/transport"
)

// keepAlive detects that an idle connection is dead, so that it is reopened before a query
// needs it. It costs one packet per half minute.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}

// pendingDial is a connection that is being opened. Queries wait for done.
type pendingDial struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	err    error // set before done is closed
}

// startDial opens a connection in the background, or returns the dial in progress. It
// continues when the caller's context is canceled, because other queries wait for it as
// well. p.mu is held.
func (p *Pool) startDial(ctx context.Context) *pendingDial {
	if p.dialing != nil {
		return p.dialing
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	d := &pendingDial{done: make(chan struct{}), cancel: cancel}
	p.dialing = d
	p.wg.Go(func() {
		defer cancel(nil)
		started := time.Now()
		c, err := p.open(ctx)
		p.finishDial(d, c, err, started)
		if c != nil && err == nil {
			c.run()
		}
	})
	return d
}

// finishDial adds c to the connections, or sets err as the result of the dial.
func (p *Pool) finishDial(d *pendingDial, c *conn, err error, started time.Time) {
	p.mu.Lock()
	p.dialing = nil
	if err == nil && p.closed {
		err = transport.ErrClosed
	}
	if err == nil {
		p.drainExpired()
		p.conns = append(p.conns, c)
		p.dialErr = nil
	} else {
		d.err = &transport.DialError{Err: err}
		if !errors.Is(err, transport.ErrNetworkChanged) {
			p.dialErr, p.dialErrAt = d.err, time.Now()
		}
	}
	p.mu.Unlock()
	close(d.done)
	switch {
	case err == nil:
		took := time.Since(started)
		p.count.opened.Add(took)
		p.cfg.Log.Debug("connection opened", "server", p.cfg.Server.String(), "duration", took)
	case errors.Is(err, transport.ErrNetworkChanged):
	case errors.Is(err, transport.ErrClosed):
		if c != nil {
			_ = c.nc.Close()
		}
	default:
		p.cfg.Observer.DialFailed(started, err)
	}
}

// open connects to one of the server's addresses.
func (p *Pool) open(ctx context.Context) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	h, err := p.raceAddrs(dialCtx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	if h.resumed {
		p.count.resumed.Add(1)
	}
	p.recordConnected(h)
	c := newConn(&p.cfg, h.nc, h.raw, &p.count, p.remove)
	c.tap = newConnTap(p.cfg.Tap, h.nc)
	c.refusal = func(err error) error { return p.verify.refusal(h.certRequested, err) }
	p.mu.Lock()
	c.queryLimit = p.limit.at(time.Now())
	p.mu.Unlock()
	return c, nil
}

// recordConnected records the address that worked. It logs a server that is accepted
// without being authenticated, once for each reason in a row.
func (p *Pool) recordConnected(h *handshake) {
	reason := ""
	if h.untrusted != nil {
		reason = h.untrusted.Reason
	}
	state := h.nc.ConnectionState()
	p.mu.Lock()
	p.protocol = tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		p.expiry = state.PeerCertificates[0].NotAfter
	}
	p.lastAddr = h.addr
	before := p.untrusted
	p.untrusted = reason
	p.mu.Unlock()
	switch {
	case reason == before:
	case reason != "":
		p.cfg.Log.Warn("upstream not authenticated: used because of profile opportunistic",
			"server", p.cfg.Server.String(), "reason", reason)
	default:
		p.cfg.Log.Info("upstream authenticated again", "server", p.cfg.Server.String())
	}
}

// connect opens a TLS connection to that address, and authenticates the server. It tries
// again if TCP Fast Open or a resumed session was the reason of a failure.
func (p *Pool) connect(ctx context.Context, addr netip.AddrPort) (*handshake, error) {
	h := &handshake{addr: addr, sessions: p.sessionsOf(addr)}
	err := p.dialTLS(ctx, h)
	if errors.Is(err, syscall.EINPROGRESS) {
		// With TCP Fast Open the kernel deferred the SYN to the first write, and then
		// could not send both together. Do not use it any more.
		p.noFastOpen.Store(true)
		h = &handshake{addr: addr, sessions: h.sessions}
		err = p.dialTLS(ctx, h)
	}
	var untrusted *transport.TrustError
	if h.resumed && errors.As(err, &untrusted) {
		// The certificate of the session's first handshake is not trusted. The server may
		// have a new one.
		h.sessions.clear()
		h = &handshake{addr: addr, sessions: h.sessions}
		err = p.dialTLS(ctx, h)
	}
	if err == nil {
		return h, nil
	}
	if cause := context.Cause(ctx); cause == nil || errors.Is(cause, context.DeadlineExceeded) {
		p.count.dialErrors.Add(1) // unless it was canceled
	}
	if len(p.cfg.Server.Also) > 0 {
		err = &transport.AddrError{Addr: addr, Err: err}
	}
	return nil, err
}

// dialTLS makes one attempt. Sockets are created in the process's network namespace. They
// have TCP_NODELAY, which is Go's default, because queries are combined here.
func (p *Pool) dialTLS(ctx context.Context, h *handshake) error {
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
		return p.verify.refusal(h.certRequested, err)
	}
	return nil
}

// control prepares a socket before it connects.
func (p *Pool) control(network, address string, c syscall.RawConn) error {
	if p.cfg.Control != nil {
		if err := p.cfg.Control(network, address, c); err != nil {
			return err
		}
	}
	if !p.noFastOpen.Load() {
		fastOpen(c)
	}
	return nil
}
