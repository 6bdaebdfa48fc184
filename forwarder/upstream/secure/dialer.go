// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sotto/forwarder/upstream/transport"
)

// Dialer opens connections to one server, and remembers what helps to open the next one.
// Its methods are safe for concurrent use.
type Dialer struct {
	// Verifier authenticates the server.
	Verifier *Verifier

	cfg *transport.Config
	wg  sync.WaitGroup // attempts of races

	noFastOpen                 atomic.Bool // TCP Fast Open failed
	dials, dialErrors, resumed atomic.Uint64

	mu        sync.Mutex
	sessions  map[netip.AddrPort]*Sessions
	classic   map[netip.AddrPort]time.Time // until when the key exchange is classic
	silent    map[netip.AddrPort]bool      // the latest handshake with X25519MLKEM768 was ignored
	lastAddr  netip.AddrPort               // the address that worked last; zero if none did yet
	untrusted string                       // why the server of the latest connection is not authenticated
	protocol  string                       // of the latest connection
	group     string                       // of its key exchange
	expiry    time.Time                    // of its server's certificate
}

// NewDialer returns a Dialer for that protocol, see [Verifier.ALPN]. The caller calls
// [Dialer.Wait] when it is done.
func NewDialer(cfg *transport.Config, alpn string, needALPN bool) *Dialer {
	return &Dialer{
		cfg: cfg, Verifier: NewVerifier(cfg, alpn, needALPN),
		sessions: make(map[netip.AddrPort]*Sessions), classic: make(map[netip.AddrPort]time.Time), silent: make(map[netip.AddrPort]bool),
	}
}

// Dial connects to one of the server's addresses. open makes one attempt to complete a
// handshake with the configuration that [Verifier.Config] returns for it; close closes a
// connection that is not needed. Errors of open are returned, as a [transport.AddrError] if
// the server has several addresses; if ctx was canceled, they may be those of ctx instead.
func Dial[T any](ctx context.Context, d *Dialer, open func(context.Context, *Handshake) (T, error), close func(T)) (T, *Handshake, error) {
	type conn struct {
		c T
		h *Handshake
	}
	addrs, err := d.cfg.Addrs(ctx)
	if err != nil {
		var none T
		return none, nil, err
	}
	d.mu.Lock()
	last := d.lastAddr
	d.mu.Unlock()
	won, err := race(ctx, &d.wg, raceOrder(addrs, last), func(ctx context.Context, addr netip.AddrPort) (conn, error) {
		c, h, err := attempt(ctx, d, addr, open)
		if err != nil && len(addrs) > 1 {
			err = &transport.AddrError{Addr: addr, Err: err}
		}
		return conn{c, h}, err
	}, func(c conn) { close(c.c) })
	return won.c, won.h, err
}

// maxAborted limits how often an attempt is repeated because its socket was closed by another
// program.
const maxAborted = 3

// attempt opens a connection to that address. It tries again if TCP Fast Open, a resumed
// session or the post-quantum key exchange was the reason of a failure.
func attempt[T any](ctx context.Context, d *Dialer, addr netip.AddrPort, open func(context.Context, *Handshake) (T, error)) (T, *Handshake, error) {
	h := &Handshake{Addr: addr, sessions: d.Sessions(addr), Classic: d.isClassic(addr)}
	ignored, silent := false, false
	try := func() (T, error) {
		h = &Handshake{Addr: addr, sessions: h.sessions, Classic: h.Classic, group: h.sessions.group()}
		d.dials.Add(1)
		ctx, stop := d.limitHybrid(ctx, h)
		defer stop()
		c, err := open(ctx, h)
		if err != nil {
			err = d.Verifier.Refusal(h, err)
			silent = errors.Is(context.Cause(ctx), errIgnored)
			ignored = silent || isDropped(err) && h.isIgnored()
		}
		return c, err
	}
	c, err := try()
	if errors.Is(err, syscall.EINPROGRESS) {
		// With TCP Fast Open the kernel deferred the SYN to the first write, and then
		// could not send both together. Do not use it any more.
		d.noFastOpen.Store(true)
		c, err = try()
	}
	for range maxAborted {
		if !errors.Is(err, syscall.ECONNABORTED) || ctx.Err() != nil {
			break
		}
		c, err = try() // a program on this machine closed the socket (SOCK_DESTROY)
	}
	if err != nil && ignored && h.offersHybrid() && ctx.Err() == nil {
		h.Classic = true
		started, wasSilent := time.Now(), silent
		if c, err = try(); err == nil && time.Since(started) < d.hybridLimit()/2 { // else the path is slow
			d.useClassic(addr, wasSilent)
		}
	}
	var untrusted *transport.TrustError
	if h.Resumed && errors.As(err, &untrusted) {
		// The certificate of the session's first handshake is not trusted. The server may
		// have a new one.
		h.sessions.Clear()
		c, err = try()
	}
	if err == nil {
		return c, h, nil
	}
	if cause := context.Cause(ctx); cause == nil || errors.Is(cause, context.DeadlineExceeded) {
		d.dialErrors.Add(1) // unless it was canceled
	}
	return c, h, err
}

// Sessions returns the sessions of one of the server's addresses.
func (d *Dialer) Sessions(addr netip.AddrPort) *Sessions {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sessions[addr]
	if s == nil {
		s = &Sessions{}
		d.sessions[addr] = s
	}
	return s
}

// Connected records a connection that the caller uses, and the address that worked. It logs
// a server that is accepted without being authenticated, once for each reason in a row.
func (d *Dialer) Connected(h *Handshake, state tls.ConnectionState) {
	reason := ""
	if h.Untrusted != nil {
		reason = h.Untrusted.Reason
	}
	if h.Resumed {
		d.resumed.Add(1)
	}
	if h.offersHybrid() && h.Untrusted == nil && state.CurveID != 0 {
		h.sessions.setGroup(state.CurveID)
	}
	d.mu.Lock()
	d.protocol, d.group = tls.VersionName(state.Version), ""
	if state.CurveID != 0 {
		d.group = state.CurveID.String()
	}
	if len(state.PeerCertificates) > 0 {
		d.expiry = state.PeerCertificates[0].NotAfter
	}
	d.lastAddr = h.Addr
	if h.offersHybrid() {
		delete(d.silent, h.Addr)
	}
	before := d.untrusted
	d.untrusted = reason
	d.mu.Unlock()
	switch {
	case reason == before:
	case reason != "":
		d.cfg.Log.Warn("upstream not authenticated: used because of profile opportunistic",
			"server", d.cfg.Server.String(), "reason", reason)
	default:
		d.cfg.Log.Info("upstream authenticated again", "server", d.cfg.Server.String())
	}
}

// NetworkChanged forgets what it found out about the old network.
func (d *Dialer) NetworkChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastAddr = netip.AddrPort{}
	clear(d.classic)
	clear(d.silent)
}

// Wait waits for the attempts of races that were canceled.
func (d *Dialer) Wait() { d.wg.Wait() }

// AddStats sets the statistics that the Dialer keeps.
func (d *Dialer) AddStats(s *transport.Stats) {
	s.Dials, s.DialErrors, s.Resumed = d.dials.Load(), d.dialErrors.Load(), d.resumed.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Unauthenticated, s.Protocol, s.KeyExchange, s.CertExpiry = d.untrusted, d.protocol, d.group, d.expiry
}
