// SPDX-License-Identifier: Apache-2.0

package upstream

// candidate is what is known of a server when it is chosen.
type candidate struct {
	// until is the time in Unix nanoseconds at which the server's rest after
	// failures ends; 0: it is healthy.
	until int64
}

// failover says in which order servers are asked for one query: the configured
// one, with servers that rest behind the others, the one that rests the shortest
// first. It appends the indices of all to dst: also a server that rests is asked
// before the query fails. It is pure, and called concurrently. Other ways of
// choosing have the same form.
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
