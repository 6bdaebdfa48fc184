// SPDX-License-Identifier: Apache-2.0

package failures

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/wire"
)

const (
	// minTime and maxTime limit how long a failure is remembered.
	minTime = time.Second
	maxTime = 5 * time.Second

	// repeatTime is how long after a failure was remembered another one counts as its
	// repetition.
	repeatTime = 30 * time.Second

	shards   = 16
	perShard = 256 // failures; with the longest names and texts a few hundred kilobytes each
)

// Failure is the result of a resolution that failed.
type Failure struct {
	// Rcode is sent to clients; EDE is the reason, without [wire.EDECachedError].
	Rcode uint16
	EDE   []wire.EDE
	// Err is the error of the upstream, nil if it replied with Rcode.
	Err error
	// Unreached reports that no server received the query.
	Unreached bool
}

// Table remembers failures. It is safe for concurrent use.
type Table struct {
	seed       maphash.Seed
	generation atomic.Uint64
	size       atomic.Int64 // entries of all shards
	unreached  atomic.Int64 // of those, the ones with Unreached
	shard      [shards]shard
}

type shard struct {
	sync.Mutex
	entries map[string]*entry
}

type entry struct {
	failure *Failure
	scope   string
	until   time.Time
	kept    time.Duration // how long it is remembered
}

// New returns an empty table.
func New() *Table {
	t := &Table{seed: maphash.MakeSeed()}
	for i := range t.shard {
		t.shard[i].entries = map[string]*entry{}
	}
	return t
}

// Generation changes with [Table.Clear].
func (t *Table) Generation() uint64 { return t.generation.Load() }

func (t *Table) of(key []byte) *shard { return &t.shard[maphash.Bytes(t.seed, key)%shards] }

// Get returns the failure remembered for key, which is [wire.AppendKey] and the scope, or
// nil. It does not allocate, and takes no lock while the table is empty.
func (t *Table) Get(key []byte, now time.Time) *Failure {
	f, _ := t.Find(key, now)
	return f
}

// Find is [Table.Get], and returns for how long the failure will be remembered.
func (t *Table) Find(key []byte, now time.Time) (*Failure, time.Duration) {
	if t.size.Load() == 0 {
		return nil, 0
	}
	s := t.of(key)
	s.Lock()
	defer s.Unlock()
	if e := s.entries[string(key)]; e != nil && now.Before(e.until) {
		return e.failure, e.until.Sub(now)
	}
	return nil, 0
}

// Put remembers a failure of a query that started in that generation. If the table was
// cleared since, it may have another cause by now, and is not remembered.
func (t *Table) Put(generation uint64, key []byte, scope string, f *Failure, now time.Time) {
	s := t.of(key)
	s.Lock()
	defer s.Unlock()
	if generation != t.generation.Load() {
		return
	}
	kept := minTime
	switch old := s.entries[string(key)]; {
	case old == nil:
		t.makeRoom(s)
	default:
		if !f.Unreached && now.Before(old.until.Add(repeatTime)) {
			kept = min(2*old.kept, maxTime)
		}
		t.remove(s, string(key))
	}
	s.entries[string(key)] = &entry{failure: f, scope: scope, until: now.Add(kept), kept: kept}
	t.size.Add(1)
	if f.Unreached {
		t.unreached.Add(1)
	}
}

// makeRoom removes any entry of a full shard, which is locked.
func (t *Table) makeRoom(s *shard) {
	if len(s.entries) < perShard {
		return
	}
	for key := range s.entries {
		t.remove(s, key)
		return
	}
}

// remove removes an entry of a shard, which is locked.
func (t *Table) remove(s *shard, key string) {
	e := s.entries[key]
	if e == nil {
		return
	}
	delete(s.entries, key)
	t.size.Add(-1)
	if e.failure.Unreached {
		t.unreached.Add(-1)
	}
}

// Succeeded reports that a server of that scope replied, and whether to the question of key
// with an answer. What is forgotten are the failure of that question, and those in which no
// server of the scope was reached.
func (t *Table) Succeeded(key []byte, scope string, answered bool) {
	if answered && t.size.Load() > 0 {
		s := t.of(key)
		s.Lock()
		t.remove(s, string(key))
		s.Unlock()
	}
	if t.unreached.Load() > 0 {
		t.removeIf(func(_ string, e *entry) bool { return e.failure.Unreached && e.scope == scope })
	}
}

// Clear forgets everything, and makes later calls of Put with an earlier generation do
// nothing.
func (t *Table) Clear() {
	t.generation.Add(1)
	t.removeIf(func(string, *entry) bool { return true })
}

// FlushName forgets the failures of a lower-case wire name and of all names below it.
func (t *Table) FlushName(zone []byte) {
	t.removeIf(func(key string, _ *entry) bool { return isWithin(key, zone) })
}

func (t *Table) removeIf(match func(key string, e *entry) bool) {
	for i := range t.shard {
		s := &t.shard[i]
		s.Lock()
		for key, e := range s.entries {
			if match(key, e) {
				t.remove(s, key)
			}
		}
		s.Unlock()
	}
}

// isWithin reports whether the name at the start of key is zone or below it.
func isWithin(key string, zone []byte) bool {
	for len(key) >= len(zone) {
		if key[:len(zone)] == string(zone) {
			return true
		}
		if key[0] == 0 || int(key[0]) >= len(key) {
			return false
		}
		key = key[1+int(key[0]):]
	}
	return false
}
