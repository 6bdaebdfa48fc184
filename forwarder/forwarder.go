// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
)

// drainTime is how long a listener that stops waits for pending replies. It is
// short: only a slow upstream takes longer, and clients retry.
const drainTime = time.Second

// Forwarder answers queries. It is safe for concurrent use, and can serve several
// sets of sockets.
type Forwarder struct {
	cfg     Config
	flights *flights
	conns   *admission.ConnTable
	router  atomic.Pointer[Router]
	refused refusals
	unread  atomic.Int64 // bytes of replies that TCP clients have not read yet
	cookies wire.CookieSecret
	repeats chan *pendingQuery // nil without Config.Repeats
	drain   context.Context    // see Drain
	drained context.CancelFunc
}

// New returns a Forwarder that accepts queries once [Forwarder.Serve] is called.
// The caller calls [Forwarder.Close]. Upstream queries inherit ctx and are cancelled
// with it, so it should outlive the contexts passed to Serve.
func New(ctx context.Context, cfg Config) (*Forwarder, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	f := &Forwarder{cfg: cfg, flights: newFlights(ctx, cfg), conns: admission.NewConnTable(cfg.MaxConns)}
	if cfg.Repeats != nil && cfg.Cache != nil {
		f.repeats = make(chan *pendingQuery, maxRepeats)
	}
	f.drain, f.drained = context.WithCancel(ctx)
	rand.Read(f.cookies[:]) //nolint:errcheck // never fails since Go 1.24
	f.SetRouter(cfg.Route)
	return f, nil
}

// Close cancels the upstream queries in flight and waits for them. It resets the connections of
// zone transfers, and so does not wait for a client to read. Call it after every Serve has returned.
func (f *Forwarder) Close() error {
	f.drained()
	f.flights.close()
	return nil
}

// Drain closes TCP connections as soon as they are idle, also later ones, so that clients connect
// to another instance. Queries are answered as before, until Serve's context ends.
func (f *Forwarder) Drain() { f.drained() }

// Serve answers queries on s until ctx is cancelled. It then waits up to a second for
// pending replies (longer if the cause is a [Handover] or a [Withdrawal]) and closes s. It
// returns nil if ctx was cancelled, otherwise the error of a socket.
func (f *Forwarder) Serve(ctx context.Context, s *Sockets) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range s.udp {
		g.Go(func() error {
			srv, err := newUDPServer(f, u)
			if err != nil {
				return err
			}
			return srv.run(ctx)
		})
	}
	for _, l := range s.tcp {
		srv := &tcpServer{f: f, l: l}
		g.Go(func() error { return srv.run(ctx) })
	}
	return errors.Join(g.Wait(), s.Close())
}

// verdict is the result of [Forwarder.answer].
type verdict uint8

const (
	dropped  verdict = iota // the query gets no reply
	answered                // the reply was appended
	missed                  // the reply has to come from an upstream
)

// request is one query and what is known about it.
type request struct {
	q      wire.Query
	origin Origin
	route  Route
	client netip.AddrPort
	local  netip.AddrPort // where it arrived
	start  time.Time
	limit  int // maximum length of the reply in bytes; 0: that of the protocol
	tcp    bool
	stale  bool   // the cache has an expired answer, to be used if the upstream has none
	shared bool   // another instance stored the answer
	server string // the upstream server that answered
}

// answer parses the query in msg, which arrived at local, into r, and appends the
// reply to dst if it is available immediately. r refers to msg afterwards.
func (f *Forwarder) answer(dst, msg []byte, local netip.Addr, r *request) ([]byte, verdict) {
	reply, v := f.decide(dst, msg, local, r)
	if v == answered {
		f.cfg.tapReply(r, reply[len(dst):])
	}
	return reply, v
}

// decide is answer without the tap of the reply.
func (f *Forwarder) decide(dst, msg []byte, local netip.Addr, r *request) ([]byte, verdict) {
	if f.cfg.Origins != nil {
		var known bool
		if r.origin, known = f.cfg.Origins(local); !known {
			return f.drop(dst, r, msg, DropAddress)
		}
	}
	var err error
	r.q, err = wire.ParseQuery(msg)
	if errors.Is(err, wire.ErrIgnore) {
		return f.drop(dst, r, msg, DropResponse)
	}
	f.cfg.tapQuery(r, msg)
	if r.q.HasCookie() && !r.q.SetCookie(&f.cookies, r.client.Addr(), r.start) && errors.Is(err, wire.ErrCookieQuery) {
		err = errBadCookie
	}
	if !r.tcp {
		r.limit = r.q.UDPLimit()
	}
	if err == nil {
		r.route = f.route(&r.q, &r.origin)
	}
	if rcode, ede, final := f.policy(r, err); final {
		dst = wire.AppendError(dst, &r.q, rcode, ede...)
		f.cfg.observe(r, rcode, r.policySource(), nil)
		return dst, answered
	}
	switch {
	case r.route.Action.relays():
		return dst, missed
	case r.route.Action.answers():
		return f.appendLocal(dst, r), answered
	}
	return f.fromCache(dst, r)
}

// drop reports a message that gets no reply.
func (f *Forwarder) drop(dst []byte, r *request, msg []byte, why Drop) ([]byte, verdict) {
	if len(msg) < wire.HeaderLen {
		why = DropShort
	}
	r.q = wire.Outline(msg)
	f.cfg.dropped(r, why, nil)
	return dst, dropped
}

func (r *request) source() admission.Source {
	return admission.SourceOf(r.origin.Workload, r.client.Addr())
}

// waitTimeout waits for wg, at most for d.
func waitTimeout(wg *sync.WaitGroup, d time.Duration) {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}
