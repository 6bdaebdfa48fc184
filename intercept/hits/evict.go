// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"slices"
	"sync/atomic"
)

// evictFraction is the part of the entries that is removed when none is free: each removal waits
// for the programs that may read an entry, tens of milliseconds, so many are removed at once.
const evictFraction = 8

// take returns a free entry. If there is none it removes some. t.mu is held.
func (t *Table) take(long int) (at uint32, ok bool) {
	p := &t.used[long]
	if len(p.free) == 0 {
		t.release()
	}
	if len(p.free) == 0 {
		t.evict(long)
		t.release()
	}
	if len(p.free) == 0 {
		return 0, false
	}
	at = p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return at, true
}

// release makes the entries available that were removed from the index. t.mu is held.
func (t *Table) release() {
	if len(t.retired) == 0 {
		return
	}
	t.wait()
	for id := range t.retired {
		p, at := t.poolOf(id)
		p.meta[at] = meta{}
		p.free = append(p.free, at)
	}
	clear(t.retired)
}

// remove removes an entry from the index. t.mu is held.
func (t *Table) remove(id uint32) {
	key := t.head(id).Key
	if t.index[key] == id {
		p := t.place(&key)
		if way := p.way(id); way >= 0 {
			p.set(way, 0)
		}
		delete(t.index, key)
	}
	t.retired[id] = true
}

// evict removes the least used entries of one length. t.mu is held.
func (t *Table) evict(long int) {
	p := &t.used[long]
	t.count(long, nil)
	order := make([]uint32, 0, len(p.meta))
	for at := range p.meta {
		if p.meta[at].inUse && !t.retired[t.id(long, uint32(at))] {
			order = append(order, uint32(at))
		}
	}
	slices.SortFunc(order, func(a, b uint32) int {
		x, y := p.meta[a].recent, p.meta[b].recent
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	n := min(len(order), max(1, len(p.meta)/evictFraction))
	for _, at := range order[:n] {
		t.displace(t.id(long, at))
	}
}

// displace removes an entry for another one. t.mu is held.
func (t *Table) displace(id uint32) {
	t.remove(id)
	t.evicted++
	if p, at := t.poolOf(id); t.cfg.Evicted != nil {
		t.cfg.Evicted(p.meta[at].tag)
	}
}

func (t *Table) id(long int, at uint32) uint32 { return uint32(long)<<31 | at }

// Sweep removes entries that expired or are of an earlier generation. It calls used for each
// entry that was given since the last call, with its tag and the number of replies. It is to be
// called about once per second.
func (t *Table) Sweep(used func(tag []byte, n uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.writable {
		return
	}
	now, generation := uint64(Now()), t.Generation()
	for long := range t.used {
		t.count(long, used)
		for at := range t.used[long].meta {
			id := t.id(long, uint32(at))
			if !t.used[long].meta[at].inUse || t.retired[id] {
				continue
			}
			if h := t.head(id); h.Expires <= now || h.Generation != generation {
				t.remove(id)
			}
		}
	}
	t.release()
}

// count reads the counters of the entries of one length. t.mu is held.
func (t *Table) count(long int, used func(tag []byte, n uint64)) {
	p := &t.used[long]
	for at := range p.meta {
		m := &p.meta[at]
		if !m.inUse {
			continue
		}
		n := atomic.LoadUint64(&t.head(t.id(long, uint32(at))).Count)
		m.recent = m.recent/2 + n - m.seen
		if n > m.seen && used != nil {
			used(m.tag, n-m.seen)
			m.seen = n
		}
	}
}

// Stats are the figures of a table.
type Stats struct {
	Entries, MaxEntries int
	Bytes               int64 // of memory, which is constant
	Evicted             uint64
	Verdicts            map[string]uint64
}

// Stats returns the figures. Those of verdicts are since the maps were made.
func (t *Table) Stats() (Stats, error) {
	verdicts, err := t.verdicts()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{Entries: len(t.index), MaxEntries: len(t.mem.short) + len(t.mem.long), Evicted: t.evicted, Verdicts: verdicts}
	s.Bytes = int64(len(t.mem.short))*shortBytes + int64(len(t.mem.long))*longBytes + int64(len(t.mem.slots))*slotBytes +
		int64(len(t.mem.index))*bucketBytes
	return s, err
}
