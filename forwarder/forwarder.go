// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder/wire"
)

// drainTime is how long a listener that was told to stop waits for the replies
// that it still owes. It is short: what takes longer is a slow upstream, and
// clients ask again.
const drainTime = time.Second

// Forwarder answers queries. It is safe for concurrent use; several sets of
// sockets may be served by one.
type Forwarder struct {
	cfg     Config
	flights *flights
	conns   *connTable
	router  atomic.Pointer[Router]
	refused refusals
	unread  atomic.Int64 // bytes of replies that wait for TCP clients to read them
}

// New returns a Forwarder, which runs nothing until [Forwarder.Serve]. The
// caller calls [Forwarder.Close]. ctx carries what upstream queries inherit; its
// end ends them, so it should outlive those given to Serve.
func New(ctx context.Context, cfg Config) (*Forwarder, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	f := &Forwarder{cfg: cfg, flights: newFlights(ctx, cfg), conns: newConnTable(cfg.MaxConns)}
	f.SetRouter(cfg.Route)
	return f, nil
}

// Close ends the upstream queries in flight and waits for them. It is called
// after every Serve has returned.
func (f *Forwarder) Close() error {
	f.flights.close()
	return nil
}

// Serve answers queries on s until ctx ends, then waits for up to a second for
// the replies still owed, and closes s. It returns nil when ctx ended it, and
// otherwise the error that did. What another process does meanwhile with the same
// sockets is its own affair; see [Handover].
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

// verdict is what became of a query.
type verdict uint8

const (
	dropped  verdict = iota // nothing is owed
	answered                // the reply was appended
	missed                  // it has to wait for an upstream
)

// request is one query on its way through [Forwarder.answer].
type request struct {
	q      wire.Query
	origin Origin
	route  Route
	client netip.AddrPort
	start  time.Time
	limit  int // the longest reply in bytes, 0: no limit but the protocol's
	tcp    bool
	stale  bool // the cache has an expired answer, for when the upstream has none
}

// answer reads the query in msg, which arrived at local, into r, and appends
// the reply to dst if there is one at once. r refers to msg afterwards.
func (f *Forwarder) answer(dst, msg []byte, local netip.Addr, r *request) ([]byte, verdict) {
	if f.cfg.Origins != nil {
		var known bool
		if r.origin, known = f.cfg.Origins(local); !known {
			return dst, dropped
		}
	}
	var err error
	r.q, err = wire.ParseQuery(msg)
	if errors.Is(err, wire.ErrIgnore) {
		return dst, dropped
	}
	if !r.tcp {
		r.limit = r.q.UDPLimit()
	}
	if err == nil {
		r.route = f.route(&r.q, &r.origin)
	}
	if rcode, ede, final := f.policy(r, err); final {
		dst = wire.AppendError(dst, &r.q, rcode, ede...)
		f.observe(r, rcode, false, nil)
		return dst, answered
	}
	if r.route.Action == Plain {
		return dst, missed
	}
	return f.fromCache(dst, r)
}

// source is who counts as one with who asks.
func (r *request) source() source { return sourceOf(&r.origin, r.client.Addr()) }

// observe tells of one reply.
func (f *Forwarder) observe(r *request, rcode uint16, cached bool, err error) {
	if f.cfg.Observe != nil {
		f.cfg.Observe(r.event(rcode, cached, err))
	}
}

func (r *request) event(rcode uint16, cached bool, err error) Event {
	return Event{
		Origin: r.origin, Client: r.client, TCP: r.tcp,
		Name: wire.Name(r.q.Name), Type: r.q.Type, Class: r.q.Class,
		Rcode: rcode, Cached: cached, Duration: time.Since(r.start), Err: err,
	}
}

// waitAtMost waits for wg, but not longer than d.
func waitAtMost(wg *sync.WaitGroup, d time.Duration) {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}
