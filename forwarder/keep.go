// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"time"

	"sotto/forwarder/wire"
)

// keep stores an upstream's answer. One that cannot be stored removes the answer before it, which it
// supersedes: only if the upstream fails may that be used as a stale one (RFC 8767 §4).
func (fl *flight) keep(r *wire.Reply) {
	c := fl.fs.cfg.Cache
	fresh, stale := c.Lifetime(r)
	switch {
	case !wire.IsAnswer(r.Rcode):
	case !r.EDNS && wire.WantsDNSSEC(fl.query):
		// Without OPT an upstream sends no signatures. Such a reply is not stored for clients
		// that want them, since the upstream may send them again soon.
		fl.forget(fl.key)
	case fresh == 0:
		fl.forget(fl.key)
		// Otherwise the answer without signatures is made of the one with them again.
		var room [usualQuery]byte
		other := append(room[:0], fl.key...)
		other[r.QEnd-wire.HeaderLen] ^= wire.KeyDO
		fl.forget(other)
	default:
		fl.store(r, fresh+stale)
	}
}

// store stores an answer, unless the network or the router has changed since the query: it may be of
// the old network, whose answers the caller of [Forwarder.NetworkChanged] flushes afterwards.
func (fl *flight) store(r *wire.Reply, keep time.Duration) {
	fs, now := fl.fs, time.Now()
	fs.cfg.Cache.Put(fl.key, r, now)
	if fl.generation != fs.failures.Generation() {
		fs.cfg.Cache.Remove(fl.key)
		return
	}
	var room [2 * usualQuery]byte
	if c, key := fl.shareable(room[:0], fl.key); c != nil {
		c.Put(key, r, now, keep)
	}
}

// forget removes an answer of the flight's upstream from both caches.
func (fl *flight) forget(key []byte) {
	fl.fs.cfg.Cache.Remove(key)
	var room [2 * usualQuery]byte
	if c, key := fl.shareable(room[:0], key); c != nil {
		c.Remove(key)
	}
}
