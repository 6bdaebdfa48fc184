// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"encoding/binary"
	"slices"
	"time"
	"unsafe"

	"sotto/forwarder/wire"
)

const (
	// otterBytes is what otter takes for one entry besides the Entry: a node
	// with its links, a slot of the hash table, its share of the frequency
	// sketch. TestBytesAreHonest measures about 80.
	otterBytes = 96
	// minWeight is an entry's weight but for its key and message.
	minWeight = int(unsafe.Sizeof(Entry{})) + otterBytes

	// fewTTLs is how many TTL offsets fit an Entry itself: most replies.
	fewTTLs = 8

	// clockSlack is how far a reader's clock reading may lie before a writer's:
	// readers take theirs once for a batch of queries.
	clockSlack = 2 * time.Second
)

// Entry is one reply in the cache. It is immutable.
type Entry struct {
	// Reply is the cache's own copy. Its TTLs are those to count down from by
	// [Entry.Age]; where the configuration's limits changed them they differ
	// from what the upstream sent.
	Reply wire.Reply

	key     []byte
	stored  int64 // Unix nanoseconds
	expires int64
	weight  uint32
	few     [fewTTLs]uint16
}

// newEntry copies r, whose TTLs it brings between least and most. It takes two
// allocations for a reply of few records without EDE.
func newEntry(key []byte, r *wire.Reply, now time.Time, least, most uint32) *Entry {
	e := &Entry{Reply: *r, stored: now.UnixNano()}
	ttl := clamp(r.TTL, least, most)
	e.expires = e.stored + int64(ttl)*int64(time.Second)

	buf := slices.Grow([]byte(nil), len(key)+len(r.Msg))
	buf = append(append(buf, key...), r.Msg...)
	e.key = buf[:len(key):len(key)]
	e.Reply.Msg = buf[len(key):len(buf):len(buf)]
	size := minWeight + cap(buf)

	if len(r.TTLs) <= fewTTLs {
		e.Reply.TTLs = append(e.few[:0:fewTTLs], r.TTLs...)
	} else {
		e.Reply.TTLs = slices.Clone(r.TTLs)
		size += 2 * cap(e.Reply.TTLs)
	}
	for _, off := range e.Reply.TTLs {
		field := e.Reply.Msg[off : off+4]
		binary.BigEndian.PutUint32(field, clamp(binary.BigEndian.Uint32(field), least, most))
	}
	if len(r.EDE) > 0 {
		e.Reply.EDE = slices.Clone(r.EDE)
		size += cap(e.Reply.EDE) * int(unsafe.Sizeof(wire.EDE{}))
		for i := range r.EDE {
			size += len(r.EDE[i].Text)
		}
	}
	e.Reply.TTL = ttl
	e.weight = uint32(size)
	return e
}

// clamp brings a TTL into the limits. None is 0: Put takes no such reply.
func clamp(ttl, least, most uint32) uint32 {
	return min(max(ttl, least), most)
}

// fresh tells whether e may be answered at now: neither expired, nor from a
// future that a clock set back has made of it.
func (e *Entry) fresh(now time.Time) bool {
	n := now.UnixNano()
	return n < e.expires && n >= e.stored-int64(clockSlack)
}

// Age returns for how many seconds e has been in the cache: what its TTLs are
// to be counted down by.
func (e *Entry) Age(now time.Time) uint32 {
	return uint32(max(now.UnixNano()-e.stored, 0) / int64(time.Second))
}

// Left returns how long e still holds at now; 0 once it has expired.
func (e *Entry) Left(now time.Time) time.Duration {
	return time.Duration(max(e.expires-now.UnixNano(), 0))
}
