// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"sotto/forwarder/wire"
)

// entry is the head of one cached reply. The rest follows in the same allocation, which has
// no pointers. So the garbage collector does not scan it, and an entry is a single object:
//
//	head | TTL offsets | message | end of the key | EDEs
//
// The message's question is lower-cased, so that it is also the start of the key: name,
// type, class. Only the end of the key, starting with DO and CD, is stored separately.
// (Clients get their own spelling from [wire.AppendReply].)
//
// Everything except the atomics is immutable once the entry is in the cache. A pointer
// to any part keeps the whole allocation alive.
type entry struct {
	stored int64  // Unix nanoseconds
	ttl    uint32 // seconds from stored until it expires

	// prefetch counts hits up to popular. Then it has the time when a caller was last
	// asked to refresh the entry: popular + 1 + seconds since stored.
	prefetch atomic.Uint32
	// failed is the time of the last failed refresh: 1 + seconds since stored, or 0.
	failed atomic.Uint32
	// asked is the version of [Cache.Repeat] for which callers were last asked to repeat the
	// answer, and in the lower half a set of the classes. See [Answer.Ask].
	asked atomic.Uint32

	words  uint16 // size of the allocation, in units of 8 bytes
	msg    uint16 // bytes of message
	qend   uint16
	ttls   uint16 // TTL offsets
	edes   uint16 // bytes of EDEs
	suffix uint8  // bytes of key that are not in the question
	flags  uint8  // rcode in the lower half
}

// Flags of an entry, above its rcode.
const (
	flagNegative = 0x10
	flagAD       = 0x20
	flagRotate   = 0x40
	rcodeMask    = 0x0F
)

const (
	headLen = int(unsafe.Sizeof(entry{}))

	// otterBytes is otter's overhead per entry: a node with its links (48), its part
	// of the hash table (17 to 34, from just before it grows to just after), and of the
	// frequency sketch (8 to 16, once the cache is half full). TestBytesAreAccurate
	// checks it.
	otterBytes = 96

	// maxSuffix is the maximum length of a key after name, type and class.
	maxSuffix = 255

	// clockSlack is how much earlier a reader's time may be than a writer's: readers
	// read the clock once per batch of queries.
	clockSlack = 2 * time.Second
)

// entryLen returns the length of an entry for r and key.
func entryLen(key []byte, r *wire.Reply) int {
	suffix := len(key) - (r.QEnd - wire.HeaderLen)
	return headLen + 2*len(r.TTLs) + len(r.Msg) + suffix + edesLen(r.EDE)
}

// newEntry returns an entry with a copy of r, in one allocation. limit is applied to the
// TTLs. The question of r has to be that of key (see [keyFits]).
func newEntry(key []byte, r *wire.Reply, now time.Time, ttl uint32, limit func(uint32) uint32) *entry {
	suffix := key[r.QEnd-wire.HeaderLen:]
	edes := edesLen(r.EDE)
	// The capacity is the size that is really allocated.
	words := slices.Grow([]uint64(nil), (entryLen(key, r)+7)/8)
	e := (*entry)(unsafe.Pointer(unsafe.SliceData(words)))
	e.stored, e.ttl = now.UnixNano(), ttl
	e.words, e.msg, e.qend = uint16(cap(words)), uint16(len(r.Msg)), uint16(r.QEnd)
	e.ttls, e.edes, e.suffix = uint16(len(r.TTLs)), uint16(edes), uint8(len(suffix))
	e.flags = uint8(r.Rcode) & rcodeMask
	if r.Negative {
		e.flags |= flagNegative
	}
	if r.AD {
		e.flags |= flagAD
	}
	if r.Rotate {
		e.flags |= flagRotate
	}
	copy(e.offsets(), r.TTLs)
	msg, keyEnd, packed := e.tail()
	copy(msg, r.Msg)
	copy(msg[wire.HeaderLen:], key[:len(key)-len(suffix)])
	for _, off := range r.TTLs {
		field := msg[off : off+4]
		binary.BigEndian.PutUint32(field, limit(binary.BigEndian.Uint32(field)))
	}
	copy(keyEnd, suffix)
	packEDEs(packed, r.EDE)
	return e
}

// all returns e's whole allocation. Parts are slices of it, with bounds checks.
func (e *entry) all() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(e)), 8*int(e.words))
}

// offsets returns the message's TTL offsets. Their address is even, since the head's size
// is even.
func (e *entry) offsets() []uint16 {
	if e.ttls == 0 {
		return nil
	}
	first := e.all()[headLen:e.msgOff()]
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(first))), len(first)/2)
}

func (e *entry) msgOff() int { return headLen + 2*int(e.ttls) }

// tail returns the parts after the TTL offsets: message, end of the key, and EDEs.
func (e *entry) tail() (msg, keyEnd, edes []byte) {
	rest := e.all()[e.msgOff():]
	m := int(e.msg)
	k := m + int(e.suffix)
	d := k + int(e.edes)
	return rest[:m:m], rest[m:k:k], rest[k:d:d]
}

// weight returns the memory that e uses, including otter's overhead.
func (e *entry) weight() uint32 { return 8*uint32(e.words) + otterBytes }

func (e *entry) rcode() uint16 { return uint16(e.flags & rcodeMask) }

// hasKey reports whether e was stored under key.
func (e *entry) hasKey(key []byte) bool {
	msg, keyEnd, _ := e.tail()
	question := msg[wire.HeaderLen:e.qend]
	n := len(question)
	return len(key) == n+len(keyEnd) && string(key[:n]) == string(question) && string(key[n:]) == string(keyEnd)
}

// expires returns when e becomes stale, in Unix nanoseconds.
func (e *entry) expires() int64 { return e.stored + int64(e.ttl)*int64(time.Second) }

// state returns the state of e at now. An entry from the future, after the clock was set back, is a miss.
func (e *entry) state(now int64, maxStale time.Duration) State {
	late := now - e.expires()
	switch {
	case now < e.stored-int64(clockSlack):
		return Miss
	case late < 0:
		return Fresh
	case late < int64(maxStale):
		return Stale
	}
	return Miss
}

// age returns how many seconds e has been in the cache.
func (e *entry) age(now int64) uint32 {
	return uint32(min(max(now-e.stored, 0)/int64(time.Second), 1<<31))
}

// keyFits reports whether key was made from r's question and can be stored.
func keyFits(key []byte, r *wire.Reply) bool {
	n := r.QEnd - wire.HeaderLen
	if n < 5 || n > len(key) || len(key)-n > maxSuffix || r.QEnd > len(r.Msg) {
		return false
	}
	q := r.Msg[wire.HeaderLen:r.QEnd]
	for i, c := range q[:n-4] {
		if wire.Lower(c) != key[i] {
			return false
		}
	}
	return string(q[n-4:]) == string(key[n-4:n])
}
