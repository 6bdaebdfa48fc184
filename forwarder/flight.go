// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

// flightShards splits the table of questions in flight, so that listeners on
// several cores seldom meet at a lock.
const flightShards = 32

// errStaleGone: what was stale was evicted before the upstream answered.
var errStaleGone = errors.New("no upstream answered in time, and the stale answer is gone")

// errClosed is for who comes while the forwarder ends.
var errClosed = errors.New("the forwarder is ending")

// waiter is a client that waits for a reply. It owns its query.
type waiter struct {
	request
	who  source // has a share of those who may wait
	sink sink
	f    *Forwarder
	room [usualQuery]byte // backs request.q, unless that is longer
}

// usualQuery is a header and a question that is not very long.
const usualQuery = 96

// sink takes a waiter's reply. buf holds two bytes of room and then the reply: TCP
// puts the length there. The sink does not keep buf.
type sink interface {
	// send takes the only reply, or the end of a transfer's: then buf has
	// nothing behind its room. It does not block on a slow client.
	send(w *waiter, buf []byte)
	// part takes a message of a transfer, waiting for the client to read what
	// went before. Not true: there is nobody to take it.
	part(buf []byte) bool
	// cut ends a transfer in the middle: the client has to see that it has a
	// part only (RFC 5936 §2.2).
	cut()
}

// init has w wait for the answer to r, and copies what r refers to, so that the
// listener can reuse its buffer.
func (w *waiter) init(f *Forwarder, r *request, s sink) *waiter {
	w.request, w.who, w.sink, w.f = *r, r.source(), s, f
	end := r.q.QEnd // the reply needs the header and the question, not what came behind
	if r.route.Action == Plain {
		end = len(r.q.Msg)
	}
	w.q.Msg = append(w.room[:0], r.q.Msg[:end]...)
	w.q.Name = w.q.Msg[wire.HeaderLen : wire.HeaderLen+len(r.q.Name)]
	return w
}

// paddedQuery is how long an upstream query usually is, padding included.
const paddedQuery = 128

// flight is one upstream query and everybody who waits for it.
type flight struct {
	fs      *flights
	who     source // began it, and has a share of the queries in flight
	key     []byte
	query   []byte // as sent upstream
	up      Exchanger
	start   time.Time
	waiters []*waiter
	timer   *time.Timer // runs late; nil: there is nothing stale

	first     [1]*waiter        // backs waiters, which are seldom more
	queryRoom [paddedQuery]byte // backs query, unless that is longer
	keyRoom   [usualQuery]byte  // backs key, likewise
}

// flights are the questions in flight, each asked once.
type flights struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	crew   *crew
	seed   maphash.Seed
	shards [flightShards]flightShard

	waiting   *shares // clients
	misses    *shares // queries to upstreams
	relays    *shares // queries to the nameservers that were meant, but for
	transfers *shares // zone transfers, which last
}

type flightShard struct {
	sync.Mutex
	m map[string]*flight
}

func newFlights(ctx context.Context, cfg Config) *flights {
	fs := &flights{
		cfg: cfg, seed: maphash.MakeSeed(), crew: newCrew(),
		waiting: newShares(cfg.MaxWaiters), misses: newShares(cfg.MaxMisses),
		relays: newShares(cfg.MaxRelays), transfers: newShares(max(1, cfg.MaxRelays/transferShare)),
	}
	fs.ctx, fs.cancel = context.WithCancel(ctx)
	for i := range fs.shards {
		fs.shards[i].m = make(map[string]*flight)
	}
	return fs
}

// close ends every flight; their waiters get an error.
func (fs *flights) close() {
	fs.cancel()
	fs.crew.close()
}

// join leaves w with the flight of its question, or starts one. With an error w is
// one too many, and its listener refuses it ([Forwarder.refuse]).
func (fs *flights) join(w *waiter) error {
	if err := fs.waiting.take(w.who); err != nil {
		return err
	}
	join := fs.fly
	if w.route.Action == Plain {
		join = fs.relay
	}
	if err := join(w); err != nil {
		fs.waiting.give(w.who)
		return err
	}
	return nil
}

// fly has w wait for a flight.
func (fs *flights) fly(w *waiter) error {
	var room [wire.MaxKeyLen + maxScope]byte
	key := w.appendKey(room[:0])
	shard := fs.shard(key)
	shard.Lock()
	if fl := shard.m[string(key)]; fl != nil {
		fl.waiters = append(fl.waiters, w)
		shard.Unlock()
		return nil
	}
	fl, err := fs.newFlight(&w.request, w.who, key)
	if err != nil {
		shard.Unlock()
		return err
	}
	fl.waiters = append(fl.first[:0], w)
	if w.stale {
		fl.timer = time.AfterFunc(time.Until(w.start.Add(fs.cfg.StaleAfter)), fl.late)
	}
	shard.m[string(key)] = fl
	shard.Unlock()
	if !fs.crew.run(fl) {
		for _, other := range fs.land(fl) {
			if other != w {
				fs.fail(other, errClosed)
			}
		}
		return errClosed
	}
	return nil
}

// refresh asks again for what the cache has, with nobody waiting. Where that cannot
// be, somebody will come when the answer has expired.
func (fs *flights) refresh(r *request, key []byte) {
	shard := fs.shard(key)
	shard.Lock()
	if shard.m[string(key)] != nil {
		shard.Unlock()
		return
	}
	fl, err := fs.newFlight(r, r.source(), key)
	if err != nil {
		shard.Unlock()
		return
	}
	shard.m[string(key)] = fl
	shard.Unlock()
	if !fs.crew.run(fl) {
		fs.land(fl)
	}
}

// newFlight returns a flight for r's question, or an error if it is one too many.
// The shard of key is locked.
func (fs *flights) newFlight(r *request, who source, key []byte) (*flight, error) {
	if err := fs.misses.take(who); err != nil {
		return nil, err
	}
	fl := &flight{fs: fs, who: who, up: r.route.Upstream, start: r.start}
	fl.key = append(fl.keyRoom[:0], key...)
	fl.query = wire.AppendQuery(fl.queryRoom[:0], &r.q)
	return fl, nil
}

// run asks the upstream and hands its reply to everybody who waits.
func (fl *flight) run() {
	fs := fl.fs
	reply, err := fs.ask(fl, fl.start.Add(fs.cfg.Timeout))
	waiters := fs.land(fl)
	if err != nil || reply.Rcode == wire.RcodeServFail || reply.Rcode == wire.RcodeRefused {
		waiters = fs.unrefreshed(fl, waiters)
	}
	if err != nil {
		for _, w := range waiters {
			fs.fail(w, err)
		}
		return
	}
	buf := getBuffer()
	defer putBuffer(buf)
	for _, w := range waiters {
		*buf = wire.AppendReply((*buf)[:sinkRoom], &w.q, &reply, 0, w.limit)
		fs.done(w, *buf, reply.Rcode, nil)
	}
}

// unrefreshed notes that what is stale could not be refreshed, gives it to those who
// wait, and returns those for whom there is nothing (RFC 8767 §5).
func (fs *flights) unrefreshed(fl *flight, waiters []*waiter) []*waiter {
	if fs.cfg.Cache == nil {
		return waiters
	}
	fs.cfg.Cache.Failed(fl.key, time.Now())
	return slices.DeleteFunc(waiters, fs.serveStale)
}

// ask carries one question upstream, and its answer into the cache.
func (fs *flights) ask(fl *flight, until time.Time) (wire.Reply, error) {
	msg, err := fl.up.Exchange(fs.ctx, fl.query, until)
	if err != nil {
		return wire.Reply{}, err
	}
	reply, err := wire.ParseReply(msg)
	if err != nil {
		return reply, err
	}
	if !wire.SameQuestion(fl.query, reply.Msg) {
		return reply, errors.New("the upstream's reply has no question, or another one")
	}
	if reply.Rcode > 0x0F {
		// BADVERS, BADCOOKIE: between us and the upstream, and not about the name.
		return reply, fmt.Errorf("the upstream refused how it was asked, with %s", wire.RcodeName(reply.Rcode))
	}
	if fs.cfg.Cache != nil {
		fs.cfg.Cache.Put(fl.key, &reply, time.Now())
	}
	return reply, nil
}

// shard is where the flight of that key is, if there is one.
func (fs *flights) shard(key []byte) *flightShard {
	return &fs.shards[maphash.Bytes(fs.seed, key)%flightShards]
}

// land takes the flight off the table: whoever asks from here on finds the
// cache, or starts another.
func (fs *flights) land(fl *flight) []*waiter {
	shard := fs.shard(fl.key)
	shard.Lock()
	delete(shard.m, string(fl.key))
	waiters := fl.waiters
	shard.Unlock()
	if fl.timer != nil {
		fl.timer.Stop() // if it runs already, it finds nobody
	}
	fs.misses.give(fl.who)
	return waiters
}

// fail answers w with SERVFAIL and the reason.
func (fs *flights) fail(w *waiter, err error) {
	buf := getBuffer()
	defer putBuffer(buf)
	*buf = wire.AppendError((*buf)[:sinkRoom], &w.q, wire.RcodeServFail, reason(err))
	fs.done(w, *buf, wire.RcodeServFail, err)
}

// done hands a reply to its client.
func (fs *flights) done(w *waiter, buf []byte, rcode uint16, err error) {
	fs.waiting.give(w.who)
	observe := fs.cfg.Observe
	if observe == nil {
		w.sink.send(w, buf)
		return
	}
	event := w.event(rcode, false, err) // w is reused once it was sent
	w.sink.send(w, buf)
	observe(event)
}

// reason is the Extended DNS Error that tells a client why there is no answer.
// Errors of an upstream know theirs; what else fails is 'other' (code 0).
func reason(err error) wire.EDE {
	var explained interface{ EDE() wire.EDE }
	if errors.As(err, &explained) {
		return explained.EDE()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.EDE{Code: wire.EDENoReachableAuthority, Text: "no upstream answered in time"}
	}
	return wire.EDE{Code: wire.EDEOther, Text: err.Error()}
}

// sinkRoom is what a reply's buffer keeps free in front, for TCP's length.
const sinkRoom = 2

// buffers are for replies; a large one is not kept.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, sinkRoom, 2048)
	return &b
}}

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= 16<<10 {
		*b = (*b)[:sinkRoom]
		buffers.Put(b)
	}
}
