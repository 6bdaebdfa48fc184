// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"fmt"
	"slices"
	"testing"
)

// smallTable returns a table without a program, whose index has one bucket.
func smallTable(evicted *[]string) *Table {
	const entries = 16
	t := &Table{
		mem:     &memory{control: &hitsHitState{Seed: 1}, index: make([]hitsHitBucket, 1), short: make([]hitsShortHit, entries)},
		index:   make(map[hitsHitKey]uint32),
		retired: make(map[uint32]bool),
	}
	t.cfg.Evicted = func(tag []byte) { *evicted = append(*evicted, string(tag)) }
	t.used[0].meta = make([]meta, entries)
	return t
}

// put adds the nth entry, for a name of one label, which was used that often.
func (t *Table) put(n uint32, label string, recent uint64) {
	k := hitsHitKey{Class: 1}
	copy(k.Name[:], append([]byte{byte(len(label))}, label...))
	t.mem.short[n].Head.Key = k
	t.used[0].meta[n] = meta{inUse: true, tag: []byte(label), recent: recent}
	t.insert(&k, n)
}

// TestFullBucket shows that an entry takes the place of the least used one of a full bucket, that one with the same key
// replaces it, and that a way that was freed is used again.
func TestFullBucket(t *testing.T) {
	var evicted []string
	table := smallTable(&evicted)
	for n := range uint32(ways) {
		table.put(n, fmt.Sprintf("label-%d", n), uint64(10+(n+3)%8)) // label-5 is the least used
	}
	table.put(12, "label-3", 20)
	if len(evicted) != 0 {
		t.Fatalf("evicted %q although there was room", evicted)
	}
	table.put(8, "label-8", 1)
	table.put(9, "label-9", 1)
	if !slices.Equal(evicted, []string{"label-5", "label-8"}) {
		t.Errorf("evicted %q", evicted)
	}
	table.put(10, "label-9", 1)
	table.remove(10)
	table.put(11, "label-11", 1)
	if len(evicted) != 2 {
		t.Errorf("evicted %q for an entry that replaces another, or for one that finds room", evicted)
	}
	var ids []uint32
	for _, way := range table.mem.index[0].Way {
		ids = append(ids, uint32(way))
	}
	slices.Sort(ids)
	if !slices.Equal(ids, []uint32{0, 1, 2, 4, 6, 7, 11, 12}) || len(table.index) != ways {
		t.Errorf("in the index: %d", ids)
	}
	for _, id := range []uint32{3, 5, 8, 9, 10} {
		if !table.retired[id] {
			t.Errorf("the memory of entry %d is not released", id)
		}
	}
}

// TestSameTag shows that two entries of a bucket never have the same tag, of which the program would find one.
func TestSameTag(t *testing.T) {
	var evicted []string
	table := smallTable(&evicted)
	table.put(0, "a", 5)
	k := hitsHitKey{Class: 1, Name: [127]uint8{1, 'b'}}
	p := table.place(&k)
	table.mem.index[0].Way[0] = p.tag // the tag of b, and entry 0
	table.put(1, "b", 5)
	if got := table.mem.index[0].Way; got[0] != p.tag|1 || got[1] != 0 || len(evicted) != 1 {
		t.Errorf("%x, evicted %q", got, evicted)
	}
}

func TestBuckets(t *testing.T) {
	for entries, want := range map[uint32]uint32{1: 1, 4: 1, 5: 2, 20: 8, 20480: 8192} {
		if got := buckets(entries); got != want {
			t.Errorf("%d buckets for %d entries, want %d", got, entries, want)
		}
	}
}
