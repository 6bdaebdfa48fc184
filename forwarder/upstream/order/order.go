// SPDX-License-Identifier: Apache-2.0

package order

import "time"

// Candidate is the state of a server when servers are selected.
type Candidate struct {
	// BackoffUntil is the time in ticks until which the server is backed off after
	// failures; 0 if it is healthy. Also after that time it is ordered behind the others
	// until a probe succeeds, so that no client's query is the trial.
	BackoffUntil int64
	// Suspect means that replies are pending and the server is silent.
	Suspect bool
	// Usual is how long its replies take; 0 if unknown.
	Usual time.Duration
	// Service is the hash of the service that the server belongs to; 0 unless domains are split.
	Service uint64
}

// Healthy reports whether the server is neither backed off nor suspect.
func (c *Candidate) Healthy() bool { return c.BackoffUntil == 0 && !c.Suspect }

// before reports whether the server's state orders it before another one: healthy servers
// are first, then suspect ones, then those that are backed off, the shortest time first.
func (c *Candidate) before(d *Candidate) bool {
	if c.BackoffUntil != d.BackoffUntil {
		return c.BackoffUntil < d.BackoffUntil // 0 before any other
	}
	return !c.Suspect && d.Suspect
}

// Func determines the order in which servers are asked for one query. It appends the
// indices of all servers to dst: before a query fails, even those that are backed off are
// asked. (A strict [ByDomain] is the exception.) It is pure, and called concurrently; chance is a
// random number.
type Func func(dst []int, servers []Candidate, chance uint64) []int

// failover is the configured order.
func failover(dst []int, servers []Candidate, _ uint64) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	insertionSort(dst[start:], func(i, j int) bool { return servers[i].before(&servers[j]) })
	return dst
}

// fastest orders servers by the time their replies take. Servers that were never asked are
// last: they are measured by additional queries (see MeasureTarget), not at a client's
// expense.
func fastest(dst []int, servers []Candidate, _ uint64) []int {
	return byState(dst, servers, func(a, b *Candidate) bool {
		return a.Usual != 0 && (b.Usual == 0 || a.Usual < b.Usual)
	})
}

// byState orders the servers by their state, and those of the same state by less.
func byState(dst []int, servers []Candidate, less func(a, b *Candidate) bool) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	insertionSort(dst[start:], func(i, j int) bool {
		a, b := &servers[i], &servers[j]
		if a.before(b) || b.before(a) {
			return a.before(b)
		}
		return less(a, b)
	})
	return dst
}

// random puts the healthy servers in random order.
func random(dst []int, servers []Candidate, chance uint64) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	// A Fisher-Yates shuffle, whose random numbers are all derived from chance.
	for i, d := len(servers)-1, dst[start:]; i > 0; i-- {
		chance = chance*6364136223846793005 + 1442695040888963407 // Knuth's MMIX
		j := int((chance >> 32) * uint64(i+1) >> 32)
		d[i], d[j] = d[j], d[i]
	}
	insertionSort(dst[start:], func(i, j int) bool { return servers[i].before(&servers[j]) })
	return dst
}

// appendAll appends the index of every server.
func appendAll(dst []int, servers []Candidate) []int {
	for i := range servers {
		dst = append(dst, i)
	}
	return dst
}

// insertionSort is suitable because the list is short and usually sorted already, and the
// order has to be stable.
func insertionSort(order []int, less func(i, j int) bool) {
	for i := 1; i < len(order); i++ {
		for j := i; j > 0 && less(order[j], order[j-1]); j-- {
			order[j], order[j-1] = order[j-1], order[j]
		}
	}
}

// measureEvery is the number of queries of which one is also sent to another server, so
// that a server that became faster is noticed. The client does not wait for it. The cost is
// one and a half additional queries in a hundred, which leaves most of the default hedge share
// for hedges. At ten queries per second a server that became faster is noticed in about a
// minute.
const measureEvery = 64

// MeasureTarget returns the server to be measured in addition to the first one in order: one of
// those of which no reply time is known, or now and then any; -1 if there is none. It is pure.
func MeasureTarget(order []int, servers []Candidate, chance uint64) int {
	healthy, unknown := 0, 0
	for _, n := range order[min(1, len(order)):] {
		if !servers[n].Healthy() {
			break
		}
		healthy++
		if servers[n].Usual == 0 {
			unknown++
		}
	}
	if healthy == 0 || unknown == 0 && chance%measureEvery != 0 {
		return -1
	}
	others := order[1 : 1+healthy]
	if unknown == 0 {
		return others[int(chance/measureEvery%uint64(healthy))]
	}
	skip := int(chance / measureEvery % uint64(unknown))
	for _, n := range others {
		if servers[n].Usual == 0 {
			if skip == 0 {
				return n
			}
			skip--
		}
	}
	return -1
}
