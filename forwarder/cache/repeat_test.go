// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"testing"
	"time"

	"sotto/forwarder/wire"
)

// TestAsk checks when callers are asked to offer an answer: after its second use, once for each
// class and version.
func TestAsk(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "asked.example.", 0, "asked.example. 300 IN A 192.0.2.1", "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	get := func(class uint32) bool {
		t.Helper()
		var a Answer
		if c.Get(key, t0.Add(time.Second), &a) != Fresh {
			t.Fatal("not found")
		}
		return a.Ask(class)
	}
	for i, step := range []struct {
		before func()
		class  uint32
		want   bool
	}{
		{func() {}, 1, false}, // no answers are repeated
		{func() { c.Flush(); c.Put(key, &r, t0); c.Repeat(1) }, 1, false},
		{func() {}, 1, true},
		{func() {}, 1, false},
		{func() {}, 2, true},
		{func() {}, 2, false},
		{func() { c.Repeat(2) }, 1, true},
		{func() {}, 1, false},
		{func() {}, 2, true},
		{func() { c.RepeatAgain(key) }, 2, true},
		{func() {}, 1, true},
	} {
		if step.before(); get(step.class) != step.want {
			t.Errorf("step %d: asked is %v, want %v", i, !step.want, step.want)
		}
	}
}

// TestUsed checks that an answer that was used elsewhere is refreshed like one that Get returned.
func TestUsed(t *testing.T) {
	for _, used := range []bool{false, true} {
		c := newCache(t, Config{Prefetch: true})
		q, r := exchange(t, "used.example.", 0, "used.example. 300 IN A 192.0.2.1", "")
		key := wire.AppendKey(nil, &q)
		c.Put(key, &r, t0)
		if used {
			c.Used(key, 100, t0.Add(10*time.Second))
		}
		c.Used([]byte("unknown"), 1, t0)
		var a Answer
		if c.Get(key, t0.Add(290*time.Second), &a) != Fresh || a.Refresh != used {
			t.Errorf("used %v: %+v", used, a)
		}
		if !a.Plain() || !a.Stored().Equal(t0) || !a.Expires().Equal(t0.Add(300*time.Second)) || !a.RefreshAt().Equal(t0.Add(270*time.Second)) {
			t.Errorf("stored %v, refreshed %v, expires %v", a.Stored(), a.RefreshAt(), a.Expires())
		}
	}
}
