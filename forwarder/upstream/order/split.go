// SPDX-License-Identifier: Apache-2.0

package order

import "sotto/forwarder/upstream/split"

// ByDomain orders the servers for a domain, whose hash is the random number: those of a service are
// next to each other, as they are configured. With strict, the servers of the first service are
// the only ones, whatever their state.
func ByDomain(strict bool) Func {
	if strict {
		return byNameStrict
	}
	return byName
}

// byName orders the servers by their scores, and those of one service as they are configured.
func byName(dst []int, servers []Candidate, domain uint64) []int {
	return byState(dst, servers, func(a, b *Candidate) bool {
		return split.Score(domain, a.Service) > split.Score(domain, b.Service)
	})
}

// byNameStrict is byName with the servers of the first service alone, whatever their state.
func byNameStrict(dst []int, servers []Candidate, domain uint64) []int {
	var best uint64
	for i := range servers {
		best = max(best, split.Score(domain, servers[i].Service))
	}
	start := len(dst)
	for i := range servers {
		if split.Score(domain, servers[i].Service) == best {
			dst = append(dst, i)
		}
	}
	insertionSort(dst[start:], func(i, j int) bool { return servers[i].before(&servers[j]) })
	return dst
}
