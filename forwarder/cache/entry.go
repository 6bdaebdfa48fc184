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

// entry is the head of one cached reply. What belongs to it lies behind it in
// the same allocation, which has no pointers, so that the garbage collector
// never looks inside and a million entries are a million objects and no more:
//
//	head | TTL offsets | message | end of the key | EDEs
//
// The message's question is lower-cased, so that it is at the same time the
// begin of the key: name, type, class. Only the end of the key, from DO and CD
// on, is stored besides. (No client sees that spelling: [wire.AppendReply] gives
// each its own.)
//
// Everything but the two atomics is immutable once the entry is in the cache.
// Whoever holds a pointer to the head, or to any part, holds the whole.
type entry struct {
	stored int64  // Unix nanoseconds
	ttl    uint32 // seconds from stored until it expires

	// prefetch counts hits up to popular, and then remembers when a caller was
	// last asked to refresh the entry: popular + 1 + seconds since stored.
	prefetch atomic.Uint32
	// failed is when a refresh last failed: 1 + seconds since stored, or 0.
	failed atomic.Uint32

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
	rcodeMask    = 0x0F
)

const (
	headLen = int(unsafe.Sizeof(entry{}))

	// otterBytes is what otter takes for one entry besides: a node with its
	// links (48), its part of the hash table (17 to 34, from just before it
	// grows to just after), and of the frequency sketch (8 to 16, once the
	// cache is half full). TestBytesAreHonest holds it to that.
	otterBytes = 96

	// maxSuffix is how much of a key may lie behind name, type and class.
	maxSuffix = 255

	// clockSlack is how far a reader's clock reading may lie before a writer's:
	// readers take theirs once for a batch of queries.
	clockSlack = 2 * time.Second
)

// entryLen is how many bytes it takes to keep r under key.
func entryLen(key []byte, r *wire.Reply) int {
	suffix := len(key) - (r.QEnd - wire.HeaderLen)
	return headLen + 2*len(r.TTLs) + len(r.Msg) + suffix + edesLen(r.EDE)
}

// newEntry copies r, whose TTLs go through limit, in one allocation. The
// question of r has to be the one of key (see [keyFits]).
func newEntry(key []byte, r *wire.Reply, now time.Time, ttl uint32, limit func(uint32) uint32) *entry {
	suffix := key[r.QEnd-wire.HeaderLen:]
	edes := edesLen(r.EDE)
	// The cap is what the allocator really takes.
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

// all is e's whole allocation. Parts are sliced off it, bounds checked.
func (e *entry) all() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(e)), 8*int(e.words))
}

// offsets are the message's TTL offsets. They begin at an even address, since
// the head's size is even.
func (e *entry) offsets() []uint16 {
	if e.ttls == 0 {
		return nil
	}
	first := e.all()[headLen:e.msgOff()]
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(first))), len(first)/2)
}

func (e *entry) msgOff() int { return headLen + 2*int(e.ttls) }

// tail is what follows the TTL offsets: message, end of the key, and EDEs.
func (e *entry) tail() (msg, keyEnd, edes []byte) {
	rest := e.all()[e.msgOff():]
	m := int(e.msg)
	k := m + int(e.suffix)
	d := k + int(e.edes)
	return rest[:m:m], rest[m:k:k], rest[k:d:d]
}

// weight is the memory that e takes, with what otter adds to it.
func (e *entry) weight() uint32 { return 8*uint32(e.words) + otterBytes }

func (e *entry) rcode() uint16 { return uint16(e.flags & rcodeMask) }

// failure tells whether e is a failure that was cached to spare the upstream.
func (e *entry) failure() bool { return e.rcode() == wire.RcodeServFail }

// hasKey tells whether e was stored under key.
func (e *entry) hasKey(key []byte) bool {
	msg, keyEnd, _ := e.tail()
	question := msg[wire.HeaderLen:e.qend]
	n := len(question)
	return len(key) == n+len(keyEnd) && string(key[:n]) == string(question) && string(key[n:]) == string(keyEnd)
}

// expires is when e is no longer fresh, in Unix nanoseconds.
func (e *entry) expires() int64 { return e.stored + int64(e.ttl)*int64(time.Second) }

// state tells what e is worth at now. A failure is never stale: it would be
// worth less than asking. What a clock that was set back has made of the future
// is worth nothing.
func (e *entry) state(now int64, maxStale time.Duration) State {
	late := now - e.expires()
	switch {
	case now < e.stored-int64(clockSlack):
		return Miss
	case late < 0:
		return Fresh
	case late < int64(maxStale) && !e.failure():
		return Stale
	}
	return Miss
}

// age is for how many seconds e has been in the cache.
func (e *entry) age(now int64) uint32 {
	return uint32(min(max(now-e.stored, 0)/int64(time.Second), 1<<31))
}

// keyFits tells whether key is made of r's question, and can be stored.
func keyFits(key []byte, r *wire.Reply) bool {
	n := r.QEnd - wire.HeaderLen
	if n < 5 || n > len(key) || len(key)-n > maxSuffix || r.QEnd > len(r.Msg) {
		return false
	}
	q := r.Msg[wire.HeaderLen:r.QEnd]
	for i, c := range q[:n-4] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != key[i] {
			return false
		}
	}
	return string(q[n-4:]) == string(key[n-4:n])
}
