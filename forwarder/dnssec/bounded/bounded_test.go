// SPDX-License-Identifier: Apache-2.0

package bounded

import "testing"

// TestMap: an entry that is used stays, others are dropped, and the map never exceeds its bound.
func TestMap(t *testing.T) {
	m := New[int, string](4)
	m.Put(-1, "used")
	m.Put(-2, "unused")
	for i := range 100 {
		m.Put(i, "other")
		if v, ok := m.Get(-1); !ok || v != "used" {
			t.Fatalf("after %d others: %q, %v", i+1, v, ok)
		}
		if m.Len() > 8 {
			t.Fatalf("%d entries: want at most 8", m.Len())
		}
	}
	if v, ok := m.Get(-2); ok {
		t.Errorf("an entry that was not used is still there: %q", v)
	}
}

// TestDelete: a deleted entry is in neither generation.
func TestDelete(t *testing.T) {
	m := New[int, string](2)
	for _, k := range []int{1, 2, 3} { // 3 starts a generation, and Get copies 1 into it
		m.Put(k, "value")
	}
	m.Get(1)
	m.Delete(1)
	if _, ok := m.Get(1); ok || m.Len() != 2 {
		t.Errorf("the entry is there: %v; %d entries: want two", ok, m.Len())
	}
}
