// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math"
	"time"
)

// candidate is what is known of a server when it is chosen.
type candidate struct {
	// until is the time in ticks at which the server's rest after failures ends;
	// 0: it is healthy. One whose rest is over still comes behind the others, until a
	// probe has found it well: no client pays for the trial.
	until int64
	// suspect: it owes replies and is silent.
	suspect bool
	// usual is how long its replies take; 0: that is not known yet.
	usual time.Duration
}

// well reports whether nothing speaks against a server.
func (c *candidate) well() bool { return c.until == 0 && !c.suspect }

// before reports whether a server's state lets it come before another one: the
// well ones are first, then those that are suspected, then those that rest, the
// one that rests the shortest first.
func (c *candidate) before(d *candidate) bool {
	if c.until != d.until {
		return c.until < d.until // 0 before any other
	}
	return !c.suspect && d.suspect
}

// picker says in which order servers are asked for one query. It appends the
// indices of all to dst: also a server that rests is asked before the query
// fails. It is pure, and called concurrently; chance is a random number.
type picker func(dst []int, servers []candidate, chance uint64) []int

// failover is the configured order.
func failover(dst []int, servers []candidate, _ uint64) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	insertionSort(dst[start:], func(i, j int) bool { return servers[i].before(&servers[j]) })
	return dst
}

// fastest has the server first whose replies come soonest. Those that nobody
// asked yet are last: they are measured by [scout], not at a client's expense.
func fastest(dst []int, servers []candidate, _ uint64) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	insertionSort(dst[start:], func(i, j int) bool {
		a, b := &servers[i], &servers[j]
		if a.before(b) || b.before(a) {
			return a.before(b)
		}
		return a.usual != 0 && (b.usual == 0 || a.usual < b.usual)
	})
	return dst
}

// random has the well servers in any order.
func random(dst []int, servers []candidate, chance uint64) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	// Fisher and Yates. The number is spread anew for each place.
	for i, d := len(servers)-1, dst[start:]; i > 0; i-- {
		chance = chance*6364136223846793005 + 1442695040888963407 // Knuth's MMIX
		j := int((chance >> 32) * uint64(i+1) >> 32)
		d[i], d[j] = d[j], d[i]
	}
	insertionSort(dst[start:], func(i, j int) bool { return servers[i].before(&servers[j]) })
	return dst
}

// appendAll appends the index of every server.
func appendAll(dst []int, servers []candidate) []int {
	for i := range servers {
		dst = append(dst, i)
	}
	return dst
}

// insertionSort is right here: the list is short, stable order matters, and the
// common case has nothing to sort.
func insertionSort(order []int, less func(i, j int) bool) {
	for i := 1; i < len(order); i++ {
		for j := i; j > 0 && less(order[j], order[j-1]); j-- {
			order[j], order[j-1] = order[j-1], order[j]
		}
	}
}

// scoutEvery is of how many queries one is asked at another server as well, so
// that one that became fast is noticed. The client does not wait for it: what it
// costs is one query and a half in a hundred more, which leaves most of
// [DefaultHedgeShare] for hedges. At ten queries a second a server that became
// faster is found out in about a minute.
const scoutEvery = 64

// scout is the server to be measured beside the one that order has first, -1 if
// none is: one of which nothing is known, or any by turns. It is pure.
func scout(order []int, servers []candidate, chance uint64) int {
	others := 0
	for _, n := range order[min(1, len(order)):] {
		if !servers[n].well() {
			break
		}
		if servers[n].usual == 0 {
			return n
		}
		others++
	}
	if others == 0 || chance%scoutEvery != 0 {
		return -1
	}
	return order[1+int(chance/scoutEvery%uint64(others))]
}

// never is a time that does not come.
const never = math.MaxInt64
