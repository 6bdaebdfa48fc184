// SPDX-License-Identifier: Apache-2.0

package failures

import (
	"fmt"
	"testing"
	"time"

	"sotto/forwarder/wire"
)

var start = time.Unix(1_000_000, 0)

// key returns the key of a name in a scope.
func key(t testing.TB, name, scope string) []byte {
	t.Helper()
	b, err := wire.AppendParsed(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	return append(append(b, 0, 1, 0, 1, 0), scope...)
}

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

// TestGrowth: a failure is remembered for a second, and longer each time it repeats soon,
// up to five seconds. An answer in between starts again.
func TestGrowth(t *testing.T) {
	table, k := New(), key(t, "www.example.", "")
	now := 0.0
	put := func(unreached bool) {
		table.Put(table.Generation(), k, "", &Failure{Rcode: wire.RcodeServFail, Unreached: unreached}, at(now))
	}
	check := func(seconds float64) {
		t.Helper()
		if table.Get(k, at(now+seconds-0.01)) == nil || table.Get(k, at(now+seconds)) != nil {
			t.Errorf("at %v it is not remembered for %v s", now, seconds)
		}
	}
	for _, seconds := range []float64{1, 2, 4, 5, 5} {
		put(false)
		check(seconds)
		now += seconds + 20
	}
	now += 20 // more than 30 s after the end of the last one
	put(false)
	check(1)
	now++
	put(false)
	check(2)
	table.Succeeded(k, "", false) // another rcode that is no answer
	check(2)
	table.Succeeded(k, "", true)
	if table.Get(k, at(now)) != nil {
		t.Error("remembered after an answer")
	}
	put(false)
	check(1)
	for range 3 {
		now++
		put(true)
		check(1)
	}
}

// TestScopes: a failure belongs to its question and scope. A reply of a scope's server
// forgets the failures in which none of that scope was reached, and no others.
func TestScopes(t *testing.T) {
	table := New()
	for _, scope := range []string{"", "work"} {
		table.Put(0, key(t, "slow.example.", scope), scope, &Failure{}, start)
		table.Put(0, key(t, "down.example.", scope), scope, &Failure{Unreached: true}, start)
	}
	want := func(name, scope string, remembered bool) {
		t.Helper()
		if got := table.Get(key(t, name, scope), start) != nil; got != remembered {
			t.Errorf("%s in %q: %v", name, scope, got)
		}
	}
	want("other.example.", "", false)
	table.Succeeded(key(t, "other.example.", "work"), "work", true)
	want("slow.example.", "", true)
	want("slow.example.", "work", true)
	want("down.example.", "", true)
	want("down.example.", "work", false)
	if n := table.unreached.Load(); n != 1 {
		t.Errorf("unreached is %d", n)
	}
}

// TestFlush: a flush and a clear forget, and a query that started before a clear is not
// remembered.
func TestFlush(t *testing.T) {
	table := New()
	names := []string{"example.", "www.example.", "ample.", "."}
	fill := func() {
		for _, name := range names {
			table.Put(table.Generation(), key(t, name, ""), "", &Failure{}, start)
		}
	}
	remembered := func() string {
		all := ""
		for _, name := range names {
			if table.Get(key(t, name, ""), start) != nil {
				all += name + " "
			}
		}
		return all
	}
	fill()
	table.FlushName([]byte("\x07example\x00"))
	if got := remembered(); got != "ample. . " {
		t.Errorf("after the flush: %s", got)
	}
	fill()
	table.FlushName([]byte{0})
	if got := remembered(); got != "" {
		t.Errorf("after the flush of the root: %s", got)
	}
	fill()
	before := table.Generation()
	table.Clear()
	table.Put(before, key(t, "example.", ""), "", &Failure{}, start)
	if got := remembered(); got != "" || table.size.Load() != 0 {
		t.Errorf("after Clear: %s, size %d", got, table.size.Load())
	}
}

// TestBounded: the table does not grow beyond its limit.
func TestBounded(t *testing.T) {
	table := New()
	for i := range 4 * shards * perShard {
		table.Put(0, key(t, fmt.Sprintf("n%d.example.", i), ""), "", &Failure{Unreached: i%2 == 0}, start)
	}
	total, unreached := 0, 0
	for i := range table.shard {
		total += len(table.shard[i].entries)
		for _, e := range table.shard[i].entries {
			if e.failure.Unreached {
				unreached++
			}
		}
	}
	if total != shards*perShard || table.size.Load() != int64(total) || table.unreached.Load() != int64(unreached) {
		t.Errorf("%d entries; counted %d, %d unreached of %d", total, table.size.Load(), table.unreached.Load(), unreached)
	}
}
