// SPDX-License-Identifier: Apache-2.0

package upstream

// candidate is what a picker knows of a server.
type candidate struct {
	// until is the time in Unix nanoseconds at which the server's rest after
	// failures ends; 0: it is healthy.
	until int64
}

// picker says in which order servers are asked for one query. It appends the
// indices of all candidates to dst: also a server that rests is asked before
// the query fails. It is pure, and called concurrently.
type picker func(dst []int, servers []candidate, now int64) []int

// failover keeps the configured order, with servers that rest behind the
// others, the one that rests the shortest first.
func failover(dst []int, servers []candidate, now int64) []int {
	start := len(dst)
	for i := range servers {
		if servers[i].until <= now {
			dst = append(dst, i)
		}
	}
	resting := len(dst)
	for i := range servers {
		if servers[i].until > now {
			dst = append(dst, i)
		}
	}
	// Insertion sort: the list is short, stable order matters, and the common
	// case has nothing to sort.
	rest := dst[max(resting, start):]
	for i := 1; i < len(rest); i++ {
		for j := i; j > 0 && servers[rest[j]].until < servers[rest[j-1]].until; j-- {
			rest[j], rest[j-1] = rest[j-1], rest[j]
		}
	}
	return dst
}
