// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"hash/maphash"
	"time"
)

// repeated is the number of hits from which callers are asked to repeat an answer: the client that
// stored it has asked before, so it was wanted three times.
const repeated = 2

// Repeat makes [Answer.Ask] ask callers, once for each answer that was used several times and each
// class of clients, to offer the answer to those who can give it in the place of the cache. With
// another version, from 1, it asks again for all answers: those who repeat answers have forgotten
// them. Only the lower 16 bits count.
func (c *Cache) Repeat(version uint32) { c.repeat.Store(version << askedClasses) }

// askedClasses is the number of classes that are distinguished. Of those with the same remainder
// only the first is asked for.
const askedClasses = 16

// RepeatAgain makes Get ask again for the answer stored under key, which was not accepted or was
// forgotten.
func (c *Cache) RepeatAgain(key []byte) {
	if e, ok := c.data.GetEntryQuietly(maphash.Bytes(c.seed, key)); ok && e.Value.hasKey(key) {
		e.Value.asked.Store(0)
	}
}

// Used counts n uses of the answer stored under key that Get did not see: it stays in the cache,
// and is refreshed before it expires, as if Get had returned it.
func (c *Cache) Used(key []byte, n uint64, now time.Time) {
	e, ok := c.data.GetIfPresent(maphash.Bytes(c.seed, key))
	if !ok || !e.hasKey(key) || e.state(now.UnixNano(), 0) != Fresh {
		return
	}
	for range min(n, popular) {
		if p := e.prefetch.Load(); p >= popular || !e.prefetch.CompareAndSwap(p, p+1) {
			return
		}
	}
}

// Ask reports whether the caller is asked to offer an answer that Get returned for a client of a
// class.
func (a *Answer) Ask(class uint32) bool {
	e, bit := a.entry, uint32(1)<<(class%askedClasses)
	before := e.asked.Load()
	asked := before
	if asked&^(1<<askedClasses-1) != a.repeat {
		asked = a.repeat // forget the classes of another version
	}
	return a.repeat != 0 && asked&bit == 0 && e.prefetch.Load() >= repeated && e.asked.CompareAndSwap(before, asked|bit)
}
