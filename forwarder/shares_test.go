// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
)

// takeAll has who take until it gets no more, and returns how many it got.
func takeAll(t *testing.T, s *shares, who source, want error) (n int) {
	t.Helper()
	for {
		err := s.take(who)
		if err == nil {
			n++
			continue
		}
		if !errors.Is(err, want) {
			t.Errorf("%v, after %d: %v, want %v", who, n, err, want)
		}
		return n
	}
}

// TestShares: one that takes all it can leaves half, and room stays for whoever comes
// next; a small limit is still good for something; nothing is left of who is gone.
func TestShares(t *testing.T) {
	who := func(n int) source { return source{workload: fmt.Sprintf("/w%d", n)} }
	s := newShares(1200)
	if n := takeAll(t, s, who(0), errGreedy); n != 600 {
		t.Errorf("alone, one gets %d of 1200", n)
	}
	if n := takeAll(t, s, who(1), errGreedy); n != 300 {
		t.Errorf("the second gets %d of the 600 left", n)
	}
	for range 600 {
		s.give(who(0))
	}
	if n := takeAll(t, s, who(2), errGreedy); n != 450 {
		t.Errorf("when the first is gone, the next gets %d of 900", n)
	}
	if err := s.take(who(3)); err != nil {
		t.Errorf("who has nothing: %v", err)
	}
	s.give(who(3))
	for n, held := range map[int]int{1: 300, 2: 450} {
		for range held {
			s.give(who(n))
		}
	}
	if s.taken.Load() != 0 || s.holders() != 0 {
		t.Errorf("%d taken by %d, when all were given back", s.taken.Load(), s.holders())
	}
	small := newShares(3)
	if n := takeAll(t, small, who(0), errOverloaded); n != 3 {
		t.Errorf("one gets %d of 3", n)
	}
	// More sources than there is room for, each with a little: the total holds.
	many, got := newShares(1000), 0
	for n := range 1100 {
		if many.take(who(n)) == nil {
			got++
		}
	}
	if got != 1000 || many.holders() != 1000 {
		t.Errorf("%d of 1100 sources got one of 1000 places, %d hold one", got, many.holders())
	}
}

// TestSharesConcurrent: whoever takes and gives at the same time, the limit holds and
// the sum is right.
func TestSharesConcurrent(t *testing.T) {
	s := newShares(100)
	var wg sync.WaitGroup
	for n := range 8 {
		who := source{workload: fmt.Sprint(n % 3)}
		wg.Go(func() {
			for range 2000 {
				if s.take(who) == nil {
					if n := s.taken.Load(); n > 100+8 { // those who are just being refused included
						t.Errorf("%d taken of 100", n)
					}
					s.give(who)
				}
			}
		})
	}
	wg.Wait()
	if s.taken.Load() != 0 || s.holders() != 0 {
		t.Errorf("%d taken by %d in the end", s.taken.Load(), s.holders())
	}
}

// TestSource: a workload is one, wherever it asks from; without one it is an IPv4
// address, or the /64 of an IPv6 one.
func TestSource(t *testing.T) {
	of := func(workload, client string) source {
		return sourceOf(&Origin{Workload: workload}, netip.MustParseAddr(client))
	}
	for _, tc := range []struct {
		a, b source
		same bool
	}{
		{of("/a", "10.0.0.1"), of("/a", "10.0.0.2"), true},
		{of("/a", "10.0.0.1"), of("/b", "10.0.0.1"), false},
		{of("", "10.0.0.1"), of("", "::ffff:10.0.0.1"), true},
		{of("", "10.0.0.1"), of("", "10.0.0.2"), false},
		{of("", "2001:db8::1"), of("", "2001:db8::2:0:0:1"), true},
		{of("", "2001:db8::1"), of("", "2001:db8:0:1::1"), false},
		{of("", "fe80::1%1"), of("", "fe80::2%2"), true},
	} {
		if (tc.a == tc.b) != tc.same {
			t.Errorf("%v and %v: are they one? want %v", tc.a, tc.b, tc.same)
		}
	}
}
