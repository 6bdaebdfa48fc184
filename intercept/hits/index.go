// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"sync/atomic"
	"unsafe"
)

// The index is a hash table in an array that the program reads, see struct hit_bucket.

// hashMultiplier is HIT_MULTIPLIER in bpf/hits.h.
const hashMultiplier = 0x9E3779B97F4A7C15

// loadFactor is the number of ways of the index for an entry: with more of them, fewer buckets are full.
const loadFactor = 2

// ways is HIT_WAYS in bpf/hits.h.
const ways = len(hitsHitBucket{}.Way)

// buckets returns the number of buckets for that many entries, a power of two.
func buckets(entries uint32) uint32 {
	n := uint32(1)
	for n*uint32(ways) < entries*loadFactor {
		n *= 2
	}
	return n
}

// words returns the words of a key up to the end of its name. The rest of them is zero.
func (k *hitsHitKey) words() []uint64 {
	n := 0
	for k.Name[n] != 0 {
		n += 1 + int(k.Name[n])
	}
	all := (*[unsafe.Sizeof(*k) / 8]uint64)(unsafe.Pointer(k))
	return all[:(int(unsafe.Offsetof(k.Name))+n+1+7)/8]
}

// hash is hash_key in bpf/repeat.h.
func (k *hitsHitKey) hash(seed uint64) uint64 {
	h := seed
	for _, w := range k.words() {
		h = (h ^ w) * hashMultiplier
		h ^= h >> 32
	}
	return h
}

// place is where an entry is in the index.
type place struct {
	bucket *hitsHitBucket
	tag    uint64 // upper half of a way
}

func (t *Table) place(k *hitsHitKey) place {
	h := k.hash(t.mem.control.Seed)
	return place{&t.mem.index[h&uint64(len(t.mem.index)-1)], (h>>32 | 1) << 32}
}

// way returns the number of the way of an entry, or -1.
func (p place) way(id uint32) int {
	for i := range p.bucket.Way {
		if p.bucket.Way[i] == p.tag|uint64(id) {
			return i
		}
	}
	return -1
}

// set changes a way. The program sees the old or the new one.
func (p place) set(way int, to uint64) { atomic.StoreUint64(&p.bucket.Way[way], to) }

// insert adds an entry to the index, in place of the one with the same key, or of the least used one of a full bucket. t.mu is
// held.
func (t *Table) insert(k *hitsHitKey, id uint32) {
	p := t.place(k)
	way := -1
	if old, ok := t.index[*k]; ok {
		way = p.way(old)
		t.retired[old] = true
	}
	if way < 0 {
		way = t.freeWay(p)
	}
	p.set(way, p.tag|uint64(id))
	t.index[*k] = id
}

// freeWay returns the number of a way that is not used. If there is none, or one with the same tag, which the program could
// confuse, it removes an entry. t.mu is held.
func (t *Table) freeWay(p place) int {
	way := 0
	for i, w := range p.bucket.Way {
		if w>>32<<32 == p.tag {
			way = i
			break
		}
		if p.bucket.Way[way] != 0 && (w == 0 || t.recent(w) < t.recent(p.bucket.Way[way])) {
			way = i
		}
	}
	if w := p.bucket.Way[way]; w != 0 {
		t.displace(uint32(w))
	}
	return way
}

// recent returns how much the entry of a way was used.
func (t *Table) recent(way uint64) uint64 {
	p, at := t.poolOf(uint32(way))
	return p.meta[at].recent
}
