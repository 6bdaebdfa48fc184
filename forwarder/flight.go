// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/admission"
	"sotto/forwarder/failures"
	"sotto/forwarder/served"
	"sotto/forwarder/wire"
	"sotto/forwarder/workers"
)

// flightShards is the number of parts that the table of flights is split into, so
// that listeners on several cores seldom contend for a lock.
const flightShards = 32

// errClosed is for queries that arrive while the forwarder is closed.
var errClosed = errors.New("the forwarder is shutting down")

// usualQuery is the length of a header and a question of usual length.
const usualQuery = 96

// pendingQuery is a client's query that waits for its reply. It owns its message.
type pendingQuery struct {
	request
	src    admission.Source // holds a share of flights.waiting
	writer replyWriter
	f      *Forwarder
	room   [usualQuery]byte // backs request.q, unless that is longer
}

// replyWriter sends the reply to a pending query. buf starts with [framePrefix]
// bytes of room for TCP's length field, followed by the message. The writer does not
// keep buf.
type replyWriter interface {
	// send sends the only reply. After the parts of a zone transfer it marks the
	// end, and buf holds nothing but the room. It does not block on a slow client.
	send(p *pendingQuery, buf []byte)
	// sendPart sends one message of a zone transfer. It blocks until the client has
	// read enough of the earlier ones, and reports false if the client has
	// disconnected.
	sendPart(buf []byte) bool
	// abort ends a zone transfer early, so that the client notices that it is
	// incomplete (RFC 5936 §2.2).
	abort()
}

// init makes p a copy of r, including what r refers to, so that the listener can
// reuse its buffer.
func (p *pendingQuery) init(f *Forwarder, r *request, w replyWriter) *pendingQuery {
	p.request, p.src, p.writer, p.f = *r, r.source(), w, f
	end := r.q.QEnd // the reply needs the header and the question only
	if r.route.Action.relays() {
		end = len(r.q.Msg)
	}
	p.q.Msg = append(p.room[:0], r.q.Msg[:end]...)
	p.q.Name = p.q.Msg[wire.HeaderLen : wire.HeaderLen+len(r.q.Name)]
	return p
}

// paddedQuery is the usual length of an upstream query, padding included.
const paddedQuery = 128

// flight is one upstream query and all client queries that share it.
type flight struct {
	fs       *flights
	src      admission.Source // of the first client; holds a share of flights.misses
	key      []byte
	query    []byte // as sent upstream
	upstream Exchanger
	scope    string
	ctx      served.Context // of the exchange
	start    time.Time
	prefetch bool // it refreshes an answer that has not expired yet

	// The lock of the flight's shard protects these.
	pending []*pendingQuery
	timer   *time.Timer // runs serveAllStale; nil if no query waits for that
	shared  bool        // the stale answer is one that another instance stored

	generation uint64 // of flights.failures when it started

	first     [1]*pendingQuery  // backs pending, which seldom has more
	queryRoom [paddedQuery]byte // backs query, unless that is longer
	keyRoom   [usualQuery]byte  // backs key, likewise
}

// flights coalesces queries: identical ones share a flight. It also relays those
// that are sent to their original destination, which share nothing.
type flights struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	pool   *workers.Pool
	seed   maphash.Seed
	shards [flightShards]flightShard

	failures   *failures.Table
	fixedOrder atomic.Bool

	waiting   *admission.Shares // client queries
	misses    *admission.Shares // queries to upstreams
	relays    *admission.Shares // queries to original destinations, except
	transfers *admission.Shares // zone transfers, which take long

	cookieServers cookieServers
}

type flightShard struct {
	sync.Mutex
	m map[string]*flight
}

func newFlights(ctx context.Context, cfg Config) *flights {
	fs := &flights{
		cfg: cfg, seed: maphash.MakeSeed(), pool: workers.New(), failures: failures.New(),
		waiting: admission.NewShares(cfg.MaxWaiters), misses: admission.NewShares(cfg.MaxMisses),
		relays: admission.NewShares(cfg.MaxRelays), transfers: admission.NewShares(max(1, cfg.MaxRelays/transferFraction)),
	}
	fs.ctx, fs.cancel = context.WithCancel(ctx)
	for i := range fs.shards {
		fs.shards[i].m = make(map[string]*flight)
	}
	return fs
}

// close cancels every flight. Their clients get an error.
func (fs *flights) close() {
	fs.cancel()
	fs.pool.Close()
}

// submit adds p to a flight or relays it. On an error p was not accepted, and its
// listener refuses it ([Forwarder.refuse]).
func (fs *flights) submit(p *pendingQuery) error {
	if err := fs.waiting.Acquire(p.src); err != nil {
		return err
	}
	submit := fs.coalesce
	if p.route.Action.relays() {
		submit = fs.relay
	}
	if err := submit(p); err != nil {
		fs.waiting.Release(p.src)
		return err
	}
	return nil
}

// coalesce adds p to the flight of its question, and starts one if there is none.
func (fs *flights) coalesce(p *pendingQuery) error {
	var room [wire.MaxKeyLen + maxScope]byte
	key := p.appendKey(room[:0])
	shard := fs.shard(key)
	shard.Lock()
	if fl := shard.m[string(key)]; fl != nil {
		fl.join(p)
		shard.Unlock()
		return nil
	}
	fl, err := fs.newFlight(&p.request, p.src, key)
	if err != nil {
		shard.Unlock()
		return err
	}
	fl.pending = fl.first[:0]
	fl.join(p)
	shard.m[string(key)] = fl
	shard.Unlock()
	if !fs.pool.Run(fl) {
		for _, other := range fs.remove(fl) {
			if other != p {
				fs.fail(other, errClosed)
			}
		}
		return errClosed
	}
	return nil
}

// join adds p to the flight. The caller has locked the flight's shard.
func (fl *flight) join(p *pendingQuery) {
	fl.pending = append(fl.pending, p)
	if p.stale || fl.shared {
		fl.startTimer(p.start)
	}
}

// refresh starts a flight without clients, to refresh a cached answer. If that is not
// possible, the next query after the answer has expired will do it.
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
	fl.prefetch = true
	shard.m[string(key)] = fl
	shard.Unlock()
	if !fs.pool.Run(fl) {
		fs.remove(fl)
	}
}

// newFlight returns a flight for r's question, or an error if the limit is reached.
// The caller has locked the shard of key.
func (fs *flights) newFlight(r *request, src admission.Source, key []byte) (*flight, error) {
	if err := fs.misses.Acquire(src); err != nil {
		return nil, err
	}
	fl := &flight{fs: fs, src: src, upstream: r.route.Upstream, scope: r.route.Scope, start: r.start, generation: fs.failures.Generation()}
	fl.key = append(fl.keyRoom[:0], key...)
	fl.query = wire.AppendQuery(fl.queryRoom[:0], &r.q)
	return fl, nil
}

// Run queries the upstream and answers all pending queries of the flight.
func (fl *flight) Run() {
	fs := fl.fs
	reply, age, found := fl.fromShared()
	var err error
	if !found {
		reply, err = fs.resolve(fl, fl.until())
	}
	failed := err != nil || !wire.IsAnswer(reply.Rcode)
	if failed {
		fs.remember(fl, &reply, err)
	}
	pending := fs.remove(fl)
	if failed {
		pending = fs.refreshFailed(fl, pending)
	}
	if err != nil {
		for _, p := range pending {
			fs.fail(p, err)
		}
		return
	}
	if fs.cfg.Cache != nil {
		fs.cfg.Cache.Limit(&reply)
	}
	reply.Rotate = reply.Rotate && !fs.fixedOrder.Load()
	buf := getBuffer()
	defer putBuffer(buf)
	for _, p := range pending {
		p.shared, p.server = found, fl.ctx.Server()
		*buf = wire.AppendReply((*buf)[:framePrefix], &p.q, &reply, age, p.limit)
		fs.reply(p, *buf, reply.Rcode, nil)
	}
}

// refreshFailed records that a stale answer could not be refreshed, answers pending
// queries from it, and returns those for which there is none (RFC 8767 §5).
func (fs *flights) refreshFailed(fl *flight, pending []*pendingQuery) []*pendingQuery {
	if fs.cfg.Cache == nil {
		return pending
	}
	fs.cfg.Cache.Failed(fl.key, time.Now())
	fl.markStale(pending)
	return slices.DeleteFunc(pending, fs.serveStale)
}

// until returns when the flight has to end.
func (fl *flight) until() time.Time {
	timeout := fl.fs.cfg.Timeout
	if p, ok := fl.upstream.(Patient); ok {
		timeout = p.Timeout() + timeoutMargin
	}
	return fl.start.Add(timeout)
}

// resolve sends the flight's query upstream, checks the reply, and stores it in the
// cache.
func (fs *flights) resolve(fl *flight, until time.Time) (wire.Reply, error) {
	fl.ctx.Context = fs.ctx
	msg, err := fl.upstream.Exchange(&fl.ctx, fl.query, until)
	if err != nil {
		return wire.Reply{}, err
	}
	reply, err := checkReply(fl.query, msg)
	fs.failures.Succeeded(fl.key, fl.scope, err == nil && wire.IsAnswer(reply.Rcode))
	if err != nil {
		return reply, err
	}
	reply, _ = reply.Compressed()
	if fs.cfg.Cache != nil {
		fl.keep(&reply)
	}
	return reply, nil
}

// shard returns the part of the table that key belongs to.
func (fs *flights) shard(key []byte) *flightShard {
	return &fs.shards[maphash.Bytes(fs.seed, key)%flightShards]
}

// remove removes the flight from the table and returns its pending queries. Later
// queries find the answer in the cache, or start another flight.
func (fs *flights) remove(fl *flight) []*pendingQuery {
	shard := fs.shard(fl.key)
	shard.Lock()
	delete(shard.m, string(fl.key))
	pending := fl.pending
	if fl.timer != nil {
		fl.timer.Stop() // if it runs already, it finds no pending query
	}
	shard.Unlock()
	fs.misses.Release(fl.src)
	return pending
}

// fail answers p with SERVFAIL and the reason.
func (fs *flights) fail(p *pendingQuery, err error) {
	buf := getBuffer()
	defer putBuffer(buf)
	*buf = wire.AppendError((*buf)[:framePrefix], &p.q, wire.RcodeServFail, edeOf(err))
	fs.reply(p, *buf, wire.RcodeServFail, err)
}

// reply sends p's reply and releases p.
func (fs *flights) reply(p *pendingQuery, buf []byte, rcode uint16, err error) {
	fs.waiting.Release(p.src)
	fs.cfg.observe(&p.request, rcode, p.replySource(err), err) // send lets p be reused
	fs.cfg.tapReply(&p.request, buf[framePrefix:])
	p.writer.send(p, buf)
}

// edeOf returns the Extended DNS Error for err. Errors of an upstream have their own;
// any other has code 0, "other error".
func edeOf(err error) wire.EDE {
	var explained interface{ EDE() wire.EDE }
	if errors.As(err, &explained) {
		return explained.EDE()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.EDE{Code: wire.EDENoReachableAuthority, Text: "no upstream answered in time"}
	}
	return wire.EDE{Code: wire.EDEOther, Text: err.Error()}
}

// framePrefix is the room at the start of a reply's buffer, for TCP's length field.
const framePrefix = wire.FrameHeaderLen

// buffers are for replies. Large ones are not kept.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, framePrefix, 2048)
	return &b
}}

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= 16<<10 {
		*b = (*b)[:framePrefix]
		buffers.Put(b)
	}
}
