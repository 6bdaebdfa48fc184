// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"context"
	"testing"
	"time"
)

// noStore is a store that is never asked.
type noStore struct{}

func (noStore) Get(context.Context, []string, int) ([][]byte, error) { return nil, errTimeout }
func (noStore) Set(context.Context, []Entry) error                   { return errTimeout }
func (noStore) Ping(context.Context) error                           { return errTimeout }

// TestRemove: an answer is removed by an empty value that expires at once, also if the next one is too
// long to be shared.
func TestRemove(t *testing.T) {
	c, err := New(Config{Store: noStore{}})
	if err != nil {
		t.Fatal(err)
	}
	key, r := exchange(t, "www.example.")
	long := r
	long.Msg = append(r.Msg[:len(r.Msg):len(r.Msg)], make([]byte, DefaultMaxAnswer)...)
	for what, remove := range map[string]func(){
		"removed":  func() { c.Remove(key) },
		"too long": func() { c.Put(key, &long, t0, time.Minute) },
	} {
		c.breaker.closed.Store(false)
		if remove(); len(c.writes) != 0 {
			t.Errorf("%s: written although the store has failed", what)
		}
		c.breaker.closed.Store(true)
		c.Put(key, &r, t0, time.Minute)
		remove()
		if len(c.writes) != 2 {
			t.Fatalf("%s: %d writes: want two", what, len(c.writes))
		}
		put, removed := <-c.writes, <-c.writes
		if len(put.Value) == 0 || put.Keep != time.Minute || removed.Name != put.Name || len(removed.Value) != 0 || removed.Keep != removal {
			t.Errorf("%s: put %+v, then %+v", what, put, removed)
		}
	}
}
