// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
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

// sessions returns the cache of TLS sessions to resume, a new one if there is
// none. It has one entry: a server is one name at one address. p.mu is held.
func (p *pool) sessions() tls.ClientSessionCache {
	if p.cache == nil {
		p.cache = tls.NewLRUClientSessionCache(1)
	}
	return p.cache
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
		p.count.dialErrors.Add(1)
		p.failed(began, err)
	}
}

// open connects, does the handshake, and authenticates the server.
func (p *pool) open(ctx context.Context) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	p.mu.Lock()
	cache := p.sessions()
	p.mu.Unlock()
	nc, raw, resumed, err := p.handshake(dialCtx, cache)
	var untrusted *trustError
	if resumed && errors.As(err, &untrusted) {
		// What is not trusted is the certificate of the session's first
		// handshake; the server may have a new one by now.
		cache = p.forgetSessions()
		nc, raw, resumed, err = p.handshake(dialCtx, cache)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	if resumed {
		p.count.resumed.Add(1)
	}
	return newConn(nc, raw, p.cfg.MaxInflight, p.cfg.SilentTimeout, p.count, p.gone), nil
}

func (p *pool) forgetSessions() tls.ClientSessionCache {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cache = nil
	return p.sessions()
}

// handshake opens one TLS connection. The sockets are made where the program
// runs, and have TCP_NODELAY, which is Go's default: queries are coalesced here.
func (p *pool) handshake(ctx context.Context, cache tls.ClientSessionCache) (nc *tls.Conn, raw *gather, resumed bool, err error) {
	p.count.dials.Add(1)
	dialer := net.Dialer{Control: p.cfg.Control, KeepAliveConfig: keepAlive}
	socket, err := dialer.DialContext(ctx, "tcp", p.server.Addr.String())
	if err != nil {
		return nil, nil, false, err
	}
	raw = &gather{Conn: socket}
	nc = tls.Client(raw, p.verify.config(cache, &resumed))
	if err := nc.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, resumed, err
	}
	return nc, raw, resumed, nil
}
