// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sotto/forwarder/upstream/order"
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
	candidates := make([]order.Candidate, len(g.endpoints))
	for i, e := range g.endpoints {
		candidates[i].Service = e.service
	}
	pick, domain := order.Failover.Func(), uint64(0)
	if g.cfg.Split != nil {
		pick, domain = g.pick, g.cfg.Split.Key.Domain(name)
	}
	for _, n := range pick(nil, candidates, domain) {
		servers = append(servers, g.endpoints[n].name)
	}
	return servers
}
