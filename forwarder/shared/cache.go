// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sotto/forwarder/wire"
	"sotto/internal/ratelog"
)

const (
	// DefaultTimeout is several round trips in one network, and little compared with a miss.
	DefaultTimeout = 5 * time.Millisecond

	// DefaultMaxAnswer is the size of a usual answer with signatures; few are longer.
	DefaultMaxAnswer = 4096

	// readers is how many requests for lookups are in flight at a time. Each asks for many
	// entries when many wait, so few suffice.
	readers = 4

	// maxLookups limits the lookups that wait for a reader, and maxWrites the answers that
	// wait to be stored: at most about 4 MB with answers of the default size.
	maxLookups = 1024
	maxWrites  = 1024

	// maxBatch limits the entries in one request.
	maxBatch = 64

	// removal is how long the store keeps an empty value: it is only to remove the one before.
	removal = time.Millisecond

	// writeTimeout limits a request that stores answers. No query waits for it.
	writeTimeout = time.Second
)

// Connections is how many requests a [Cache] has in flight at the same time at most: those of
// its readers, its writer and the probe.
const Connections = readers + 2

var (
	// errTimeout is for a store that does not answer in time.
	errTimeout = errors.New("it did not answer in time")

	// errOpen is for a lookup that waited for a reader while the store failed.
	errOpen = errors.New("it has failed")
)

// Entry is one value to be stored. An empty one replaces an answer that is to be removed.
type Entry struct {
	Name  string
	Value []byte
	Keep  time.Duration // how long the store keeps it
}

// ErrRefused is for values that the store does not accept, for example because it is full. It
// works otherwise.
var ErrRefused = errors.New("the server did not store it")

// Store is a key-value store on another machine. Its methods are called concurrently. They
// return at the deadline of their context, which it has, at the latest.
type Store interface {
	// Get returns the values of the names, and nil for those that do not exist or are empty.
	// Of each value it returns at most the first limit bytes.
	Get(ctx context.Context, names []string, limit int) ([][]byte, error)
	// Set stores values. It returns [ErrRefused] if the store works and did not store some.
	Set(ctx context.Context, entries []Entry) error
	// Ping reports whether the store answers. Only Ping connects to it.
	Ping(ctx context.Context) error
}

// Config configures a [Cache]. The zero value of a field means its default.
type Config struct {
	Store     Store         // required; the caller closes it
	Prefix    string        // of the names in the store
	Secret    []byte        // encrypts and authenticates values; at least [MinSecret] bytes; nil: none
	Timeout   time.Duration // how long a query waits for the store
	MaxAnswer int           // longer answers are not shared; bytes
	Log       *slog.Logger  // nil: nothing is logged
}

// Cache shares answers by a [Store]. It is safe for concurrent use.
type Cache struct {
	cfg     Config
	codec   codec
	breaker *breaker
	lookups chan *lookup
	writes  chan Entry
	flushed atomic.Int64 // answers stored before are not used; Unix nanoseconds
	count   counters
	refused ratelog.Limiter // for the log
}

// Answer is an answer of the store.
type Answer struct {
	Reply  wire.Reply
	Stored time.Time // when an upstream sent it
}

// lookup is one query that waits for the store. Its reader sets value before it closes done.
type lookup struct {
	name  string
	value []byte
	done  chan struct{}
	err   error
}

// New returns a Cache that finds nothing until [Cache.Run] is called.
func New(cfg Config) (*Cache, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxAnswer == 0 {
		cfg.MaxAnswer = DefaultMaxAnswer
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Store == nil || cfg.Timeout < 0 || cfg.MaxAnswer < 0 || cfg.MaxAnswer > wire.MaxMessage {
		return nil, fmt.Errorf("make a shared cache: Config has no store, a negative limit, or answers longer than %d bytes", wire.MaxMessage)
	}
	codec, err := newCodec(cfg.Prefix, cfg.Secret)
	if err != nil {
		return nil, err
	}
	return &Cache{
		cfg: cfg, codec: codec, breaker: newBreaker(cfg.Log),
		lookups: make(chan *lookup, maxLookups), writes: make(chan Entry, maxWrites),
	}, nil
}

// Run connects to the store and asks it, until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range readers {
		g.Go(func() error { c.read(ctx); return nil })
	}
	g.Go(func() error { c.write(ctx); return nil })
	g.Go(func() error { c.breaker.run(ctx, c.probe); return nil })
	return g.Wait()
}

// probe reports whether the store answers in time. The first request may connect.
func (c *Cache) probe(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := c.cfg.Store.Ping(connecting); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, c.cfg.Timeout)
	defer stop()
	return c.cfg.Store.Ping(ctx)
}

// Get looks up the answer stored under key: the result of [wire.AppendKey], followed by what
// separates upstreams. The answer may have expired. It takes at most [Config.Timeout], and
// reports false if there is no answer or the store failed.
func (c *Cache) Get(key []byte) (a Answer, ok bool) {
	if !c.breaker.closed.Load() {
		c.count.skipped.Add(1)
		return a, false
	}
	l := &lookup{name: c.codec.name(key), done: make(chan struct{})}
	select {
	case c.lookups <- l:
	default:
		c.count.busy.Add(1)
		return a, false
	}
	if !c.await(l) || l.value == nil {
		return a, false
	}
	now := time.Now()
	a, err := c.codec.decode(l.value, key, now)
	if err != nil {
		c.count.invalid.Add(1)
		c.cfg.Log.Debug("an answer of the shared cache is not used", "err", err)
		return Answer{}, false
	}
	if c.isFlushed(a.Stored, now) {
		c.count.misses.Add(1)
		return Answer{}, false
	}
	c.count.found.Add(1)
	return a, true
}

// await waits until l has been answered. It reports false if that failed, or took too long;
// l may then still be in use.
func (c *Cache) await(l *lookup) bool {
	t := time.NewTimer(c.cfg.Timeout)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
		select {
		case <-l.done: // both were ready
		default:
			c.count.timeouts.Add(1)
			c.breaker.fail(errTimeout)
			return false
		}
	}
	switch {
	case errors.Is(l.err, errOpen):
		c.count.skipped.Add(1)
	case errors.Is(l.err, errTimeout):
		c.count.timeouts.Add(1)
	case l.err != nil:
		c.count.errors.Add(1)
	case l.value == nil:
		c.count.misses.Add(1)
	}
	return l.err == nil
}

// read answers lookups, as many as wait with one request, until ctx ends.
func (c *Cache) read(ctx context.Context) {
	batch, names := make([]*lookup, 0, maxBatch), make([]string, 0, maxBatch)
	for {
		batch = receive(ctx, c.lookups, batch[:0])
		if len(batch) == 0 {
			return
		}
		names = names[:0]
		for _, l := range batch {
			names = append(names, l.name)
		}
		values, err := c.request(ctx, names)
		for i, l := range batch {
			if l.err = err; err == nil {
				l.value = values[i]
			}
			close(l.done)
		}
	}
}

// request asks the store for the names, unless it has failed meanwhile.
func (c *Cache) request(ctx context.Context, names []string) ([][]byte, error) {
	if !c.breaker.closed.Load() {
		return nil, errOpen
	}
	asking, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	limit := c.cfg.MaxAnswer + maxKey + bodyHead + overhead
	values, err := c.cfg.Store.Get(asking, names, limit)
	if err == nil && len(values) != len(names) {
		err = fmt.Errorf("it returned %d values for %d names", len(values), len(names))
	}
	if err == nil {
		return values, nil
	}
	if asking.Err() != nil {
		err = errTimeout
	}
	if ctx.Err() == nil {
		c.breaker.fail(err)
	}
	return nil, err
}

// Put stores r, which an upstream has just sent, under key for the duration keep. It does not
// wait: if the store fails or too many answers wait, the answer is not shared. If r is too long,
// it removes the answer under key, which r supersedes.
func (c *Cache) Put(key []byte, r *wire.Reply, now time.Time, keep time.Duration) {
	if keep < time.Second || len(key) > maxKey {
		return
	}
	if len(r.Msg) > c.cfg.MaxAnswer {
		c.Remove(key)
		return
	}
	if !c.writable() {
		return
	}
	value, err := c.codec.encode(key, r, now)
	if err != nil {
		c.count.dropped.Add(1)
		return
	}
	c.enqueue(Entry{c.codec.name(key), value, keep})
}

// Remove removes the answer under key from the store. It does not wait: if the store fails or too
// many answers wait, the answer stays.
func (c *Cache) Remove(key []byte) {
	if len(key) <= maxKey && c.writable() {
		c.enqueue(Entry{Name: c.codec.name(key), Keep: removal})
	}
}

// writable reports whether an entry may be enqueued, and counts it if not.
func (c *Cache) writable() bool {
	if !c.breaker.closed.Load() || len(c.writes) == cap(c.writes) {
		c.count.dropped.Add(1)
		return false
	}
	return true
}

// enqueue has an entry written, unless too many wait.
func (c *Cache) enqueue(e Entry) {
	select {
	case c.writes <- e:
	default:
		c.count.dropped.Add(1)
	}
}

// write stores answers, as many as wait with one request, until ctx ends.
func (c *Cache) write(ctx context.Context) {
	batch := make([]Entry, 0, maxBatch)
	for {
		batch = receive(ctx, c.writes, batch[:0])
		if len(batch) == 0 {
			return
		}
		if !c.breaker.closed.Load() {
			c.count.dropped.Add(uint64(len(batch)))
			continue
		}
		storing, cancel := context.WithTimeout(ctx, writeTimeout)
		err := c.cfg.Store.Set(storing, batch)
		cancel()
		if err != nil {
			c.count.dropped.Add(uint64(len(batch)))
			c.writeFailed(ctx, err)
			continue
		}
		for _, e := range batch {
			if len(e.Value) > 0 {
				c.count.written.Add(1)
			}
		}
	}
}

// writeFailed handles the error of a request that stores answers.
func (c *Cache) writeFailed(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case !errors.Is(err, ErrRefused):
		c.breaker.fail(fmt.Errorf("store answers: %w", err))
	case c.refused.Allow(time.Now()):
		c.cfg.Log.Warn("the shared cache refuses answers: give the server memory, and an eviction policy (maxmemory-policy allkeys-lru)", "err", err)
	}
}

// receive waits for one value of ch, and appends it and those that are there already to batch.
// It returns batch unchanged when ctx has ended.
func receive[T any](ctx context.Context, ch <-chan T, batch []T) []T {
	select {
	case v := <-ch:
		batch = append(batch, v)
	case <-ctx.Done():
		return batch
	}
	for len(batch) < cap(batch) {
		select {
		case v := <-ch:
			batch = append(batch, v)
		default:
			return batch
		}
	}
	return batch
}

// Flush makes this instance ignore answers that were stored before now. Upstreams are asked
// again, and their answers replace those in the store.
func (c *Cache) Flush(now time.Time) { c.flushed.Store(now.UnixNano()) }

// isFlushed reports whether an answer was stored before the last flush. If the clock was set back
// behind the flush, it reports that of all that were stored until now: what is stored from now on
// is newer than the flush.
func (c *Cache) isFlushed(stored, now time.Time) bool {
	flushed := c.flushed.Load()
	if n := now.UnixNano(); n < flushed-int64(clockSlack) && c.flushed.CompareAndSwap(flushed, n) {
		flushed = n
	}
	return stored.UnixNano() < flushed
}
