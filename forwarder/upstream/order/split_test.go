// SPDX-License-Identifier: Apache-2.0

package order

import (
	"fmt"
	"slices"
	"testing"

	"sotto/forwarder/upstream/split"
)

func TestByNameOrder(t *testing.T) {
	key := split.Key{7}
	a, b, c := key.Service("a"), key.Service("b"), key.Service("c")
	servers := []Candidate{{Service: a}, {Service: b}, {Service: a}, {Service: c}, {Service: b}}
	firsts := map[int]int{}
	for i := range 3000 {
		domain := key.Domain([]byte(fmt.Sprintf("\x08d%07d\x03org\x00", i)))
		order := byName(nil, servers, domain)
		firsts[order[0]]++
		// The servers of a service are next to each other, in their order.
		for _, pair := range [][2]int{{0, 2}, {1, 4}} {
			if at := slices.Index(order, pair[0]); at == 4 || order[at+1] != pair[1] {
				t.Fatalf("order %v", order)
			}
		}
		strict := byNameStrict(nil, servers, domain)
		if !slices.Equal(strict, order[:len(strict)]) || len(strict) != map[int]int{0: 2, 1: 2, 3: 1}[order[0]] {
			t.Fatalf("order %v, strict %v", order, strict)
		}
		down := slices.Clone(servers)
		down[order[0]].BackoffUntil = 9
		if got := byName(nil, down, domain); got[4] != order[0] || !slices.Equal(got[:4], order[1:]) {
			t.Fatalf("order %v, with the first one down %v", order, got)
		}
		if got := byNameStrict(nil, down, domain); len(got) != len(strict) || !slices.Contains(got, order[0]) {
			t.Fatalf("strict %v, with the first one down %v", strict, got)
		}
	}
	if len(firsts) != 3 || firsts[0] < 900 || firsts[1] < 900 || firsts[3] < 900 {
		t.Errorf("first servers %v", firsts)
	}
}
