// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
)

// workload returns a source.
func workload(n int) Source { return SourceOf(fmt.Sprintf("/w%d", n), netip.Addr{}) }

// acquireAll acquires for src until it is refused, and returns how often it
// succeeded.
func acquireAll(t *testing.T, s *Shares, src Source, want error) (n int) {
	t.Helper()
	for {
		err := s.Acquire(src)
		if err == nil {
			n++
			continue
		}
		if !errors.Is(err, want) {
			t.Errorf("%v, after %d: %v, want %v", src, n, err, want)
		}
		return n
	}
}

// TestShares: one source that acquires all it can leaves half, and some always
// stays free for the next source; a small limit is still useful; released sources
// leave no entry.
func TestShares(t *testing.T) {
	s := NewShares(1200)
	if n := acquireAll(t, s, workload(0), ErrOverShare); n != 600 {
		t.Errorf("a single source gets %d of 1200", n)
	}
	if n := acquireAll(t, s, workload(1), ErrOverShare); n != 300 {
		t.Errorf("the second source gets %d of the 600 left", n)
	}
	for range 600 {
		s.Release(workload(0))
	}
	if n := acquireAll(t, s, workload(2), ErrOverShare); n != 450 {
		t.Errorf("after the first released all, the next gets %d of 900", n)
	}
	if err := s.Acquire(workload(3)); err != nil {
		t.Errorf("a source that holds nothing: %v", err)
	}
	s.Release(workload(3))
	for n, held := range map[int]int{1: 300, 2: 450} {
		for range held {
			s.Release(workload(n))
		}
	}
	if s.InUse() != 0 || s.Sources() != 0 {
		t.Errorf("%d in use by %d sources after all were released", s.InUse(), s.Sources())
	}
	small := NewShares(3)
	if n := acquireAll(t, small, workload(0), ErrOverloaded); n != 3 {
		t.Errorf("one source gets %d of 3", n)
	}
	// With more sources than the limit, each holding little, the limit holds.
	many, got := NewShares(1000), 0
	for n := range 1100 {
		if many.Acquire(workload(n)) == nil {
			got++
		}
	}
	if got != 1000 || many.Sources() != 1000 {
		t.Errorf("%d of 1100 sources acquired one of 1000, %d hold one", got, many.Sources())
	}
}

// TestSharesConcurrent: with concurrent calls the limit holds and the sum is
// right.
func TestSharesConcurrent(t *testing.T) {
	s := NewShares(100)
	var wg sync.WaitGroup
	for n := range 8 {
		src := workload(n % 3)
		wg.Go(func() {
			for range 2000 {
				if s.Acquire(src) == nil {
					if n := s.InUse(); n > 100+8 { // includes calls that are about to fail
						t.Errorf("%d in use of 100", n)
					}
					s.Release(src)
				}
			}
		})
	}
	wg.Wait()
	if s.InUse() != 0 || s.Sources() != 0 {
		t.Errorf("%d in use by %d sources at the end", s.InUse(), s.Sources())
	}
}

// TestSource: queries of one workload have one source, whatever their address.
// Without a workload the source is an IPv4 address, or an IPv6 /64.
func TestSource(t *testing.T) {
	of := func(workload, client string) Source {
		return SourceOf(workload, netip.MustParseAddr(client))
	}
	for _, tc := range []struct {
		a, b Source
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
			t.Errorf("%v and %v: same source is %v, want %v", tc.a, tc.b, tc.a == tc.b, tc.same)
		}
	}
}
