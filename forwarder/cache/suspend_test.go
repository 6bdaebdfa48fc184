// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// afterSuspend returns the time after a suspend that started at t: the wall clock has
// advanced, and the monotonic clock, which package time uses for differences, has not.
func afterSuspend(tb testing.TB, t time.Time, slept time.Duration) time.Time {
	tb.Helper()
	t2 := t.Add(slept) // both clocks have advanced
	// The fields of a Time; ext is the monotonic clock reading, if it has one.
	(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t2)).ext -= int64(slept)
	if t2.Sub(t) != 0 || t2.UnixNano()-t.UnixNano() != int64(slept) {
		tb.Fatalf("the fields of time.Time have changed: %v, %v", t, t2)
	}
	return t2
}

// TestSuspend: answers expire while the machine is suspended.
func TestSuspend(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	before := time.Now()
	c.Put(key, &r, before)
	var a Answer
	if s := c.Get(key, afterSuspend(t, before, 100*time.Second), &a); s != Fresh {
		t.Fatalf("after 100 of 300 s: state %v, want %v", s, Fresh)
	}
	if ttl := unpack(t, a.Append(nil, &q, 0)).Answer[0].Header().Ttl; ttl != 200 {
		t.Errorf("after 100 of 300 s: TTL %d, want 200", ttl)
	}
	if s := c.Get(key, afterSuspend(t, before, time.Hour), &a); s != Miss {
		t.Errorf("after an hour: state %v, want %v", s, Miss)
	}
}
