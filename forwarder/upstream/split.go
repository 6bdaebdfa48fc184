// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sotto/forwarder/upstream/split"
	"sotto/forwarder/wire"
)

// Split distributes domains over the services of a [Group]: all names of a registrable domain are
// asked of the same service. Servers with the same name, such as both addresses of a public
// resolver, are one service.
type Split struct {
	// Key selects the distribution.
	Key split.Key
	// Strict lets a query fail if its service fails. Otherwise the service that is next for this
	// domain is asked, which is another one for each domain.
	Strict bool
}

// serviceOf returns what identifies the service of a server.
func serviceOf(s Server) string {
	if s.Name != "" {
		return s.Name
	}
	return s.Addr.String()
}

// domain returns the hash of the domain of a query.
func (s *Split) domain(query []byte) uint64 {
	name, _, _ := wire.QuestionOf(query)
	return s.Key.Domain(name)
}

// Order returns the servers of the group as [Server.String] returns them: in the order in which a
// name (in wire form) is asked of them if all are healthy, or without a Split as configured.
func (g *Group) Order(name []byte) (servers []string) {
	candidates := make([]candidate, len(g.endpoints))
	for i, e := range g.endpoints {
		candidates[i].service = e.service
	}
	order := appendAll(nil, candidates)
	if g.cfg.Split != nil {
		order = g.pick(nil, candidates, g.cfg.Split.Key.Domain(name))
	}
	for _, n := range order {
		servers = append(servers, g.endpoints[n].name)
	}
	return servers
}

// picker returns the pure function that orders the servers for a domain, whose hash it gets as the
// random number.
func (s *Split) picker() picker {
	if s.Strict {
		return byNameStrict
	}
	return byName
}

// byName orders the servers by their scores, and those of one service as they are configured.
func byName(dst []int, servers []candidate, domain uint64) []int {
	start := len(dst)
	dst = appendAll(dst, servers)
	insertionSort(dst[start:], func(i, j int) bool {
		a, b := &servers[i], &servers[j]
		if a.before(b) || b.before(a) {
			return a.before(b)
		}
		return split.Score(domain, a.service) > split.Score(domain, b.service)
	})
	return dst
}

// byNameStrict is byName with the servers of the first service alone, whatever their state.
func byNameStrict(dst []int, servers []candidate, domain uint64) []int {
	var best uint64
	for i := range servers {
		best = max(best, split.Score(domain, servers[i].service))
	}
	start := len(dst)
	for i := range servers {
		if split.Score(domain, servers[i].service) == best {
			dst = append(dst, i)
		}
	}
	insertionSort(dst[start:], func(i, j int) bool { return servers[i].before(&servers[j]) })
	return dst
}
