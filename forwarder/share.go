// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"time"

	"sotto/forwarder/shared"
	"sotto/forwarder/wire"
)

// Identified is an [Exchanger] whose answers may be shared with other instances.
type Identified interface {
	// Identity is the same for upstreams of the same settings, in every instance, and differs
	// for others. It separates their answers in the shared cache. "": they are not shared.
	Identity() string
}

// prefetchShare is the last part of an answer's lifetime, a tenth, in which the cache refreshes
// it. There another instance's answer is no better.
const prefetchShare = 10

// shareable returns the shared cache and what key is there, or nil if the answers of the flight's
// upstream are not shared.
func (fl *flight) shareable(room, key []byte) (*shared.Cache, []byte) {
	c := fl.fs.cfg.Shared
	if c == nil {
		return nil, nil
	}
	up, ok := fl.upstream.(Identified)
	if !ok {
		return nil, nil
	}
	id := up.Identity()
	if id == "" {
		return nil, nil
	}
	return c, append(append(room, key...), id...)
}

// fromShared looks for an answer that another instance has stored, and puts it into this one's
// cache. It reports false if there is none that is fresh. An expired one is kept for the case
// that the upstream fails.
func (fl *flight) fromShared() (r wire.Reply, age uint32, ok bool) {
	var room [2 * usualQuery]byte
	c, key := fl.shareable(room[:0], fl.key)
	if c == nil {
		return r, 0, false
	}
	a, ok := c.Get(key)
	if !ok {
		return r, 0, false
	}
	cached := fl.fs.cfg.Cache
	fresh, stale := cached.Lifetime(&a.Reply)
	since := max(0, time.Since(a.Stored))
	switch {
	case since < fresh && !(fl.prefetch && fresh-since < fresh/prefetchShare):
		cached.Put(fl.key, &a.Reply, a.Stored)
		return a.Reply, uint32(since / time.Second), true
	case since >= fresh && since < fresh+stale && !fl.prefetch:
		fl.useShared(&a)
	}
	return r, 0, false
}

// useShared makes an expired answer of another instance the stale answer to the flight's queries,
// unless they have one.
func (fl *flight) useShared(a *shared.Answer) {
	shard := fl.fs.shard(fl.key)
	shard.Lock()
	defer shard.Unlock()
	if fl.timer == nil {
		fl.fs.cfg.Cache.Put(fl.key, &a.Reply, a.Stored)
		fl.shared = true
		fl.startTimer(fl.start)
	}
}

// markStale marks the flight's queries if a stale answer was found after they had arrived.
func (fl *flight) markStale(pending []*pendingQuery) {
	if !fl.shared {
		return
	}
	for _, p := range pending {
		p.stale = true
	}
}
