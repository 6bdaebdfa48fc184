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
