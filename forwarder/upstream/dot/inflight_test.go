// SPDX-License-Identifier: Apache-2.0

package dot

import "testing"

func TestInflight(t *testing.T) {
	const limit = 1 << 15
	table := newInflight(limit)
	byID := make(map[uint16]*call)
	for range limit {
		k := &call{}
		id, ok := table.add(k)
		if !ok || byID[id] != nil {
			t.Fatalf("ID %d with %d in the table: ok %v", id, len(byID), ok)
		}
		byID[id] = k
	}
	if _, ok := table.add(&call{}); ok {
		t.Error("the table accepts more than its limit")
	}
	for id, k := range byID {
		if table.get(id) != k {
			t.Fatalf("ID %d has another call", id)
		}
		if table.remove(id, &call{}) {
			t.Fatal("a call was removed for another one")
		}
		if !table.remove(id, k) || table.remove(id, k) || table.get(id) != nil {
			t.Fatalf("ID %d is not removed once", id)
		}
		if table.len() == limit-10 {
			break
		}
	}
	if n := len(table.removeAll()); n != limit-10 || table.len() != 0 {
		t.Errorf("drained %d, %d are left", n, table.len())
	}
}

// TestIDsAreRandom: the IDs of two connections differ, and are not sequential.
func TestIDsAreRandom(t *testing.T) {
	a, b := newInflight(100), newInflight(100)
	same, next := 0, 0
	last := uint16(0)
	for range 100 {
		x, _ := a.add(&call{})
		y, _ := b.add(&call{})
		if x == y {
			same++
		}
		if x == last+1 {
			next++
		}
		last = x
	}
	if same > 5 || next > 5 { // a chance of less than one in 10^15
		t.Errorf("%d of 100 IDs are equal, %d are sequential", same, next)
	}
}

// TestAbandoned: an abandoned query is remembered for one reply, up to a limit, and an ID
// that is used again belongs to the new query.
func TestAbandoned(t *testing.T) {
	table := newInflight(1 << 15)
	abandon := func(sent int64) uint16 {
		k := &call{sent: sent}
		id, ok := table.add(k)
		if !ok || !table.abandon(id, k) || table.abandon(id, k) {
			t.Fatal("want a call to be abandoned once")
		}
		return id
	}
	id := abandon(7)
	if sent, ok := table.late(id); !ok || sent != 7 {
		t.Errorf("its reply is late: %v, sent at %d", ok, sent)
	}
	if _, ok := table.late(id); ok {
		t.Error("a second reply is late as well")
	}
	for range 2 * maxAbandoned {
		abandon(1)
	}
	if n := len(table.abandoned); n > maxAbandoned || n < maxAbandoned*9/10 {
		t.Errorf("%d are remembered, want about %d", n, maxAbandoned)
	}
	if table.len() != 0 {
		t.Errorf("%d are in flight", table.len())
	}
	for range 1 << 15 {
		id, _ := table.add(&call{})
		if _, ok := table.late(id); ok {
			t.Fatalf("ID %d is in flight, and a reply to it is late", id)
		}
	}
}
