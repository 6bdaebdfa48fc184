// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sotto/forwarder"
	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
)

// newRouter has rules choose among the groups of a table. It is pure but for
// them: one look-up a query, in tables that nobody changes.
func newRouter(p rulePlan, t table) forwarder.Router {
	routes := make([]forwarder.Route, 1+len(p.uses)) // by number of the rule, from 1
	routes[0] = forwarder.Route{Upstream: t[defaultGroup]}
	for i, use := range p.uses {
		r := forwarder.Route{Rule: i + 1}
		switch use {
		case usePlain:
			r.Action = forwarder.Plain
		case useRefuse:
			r.Action = forwarder.Refuse
		case useNoData:
			r.Action = forwarder.NoData
		default:
			r.Upstream = t[use]
			if use != defaultGroup {
				r.Scope = use
			}
		}
		routes[i+1] = r
	}
	if len(p.uses) == 0 {
		return func(*wire.Query, *forwarder.Origin) forwarder.Route { return routes[0] }
	}
	byWorkload := p.set.UsesWorkload()
	return func(q *wire.Query, o *forwarder.Origin) forwarder.Route {
		// No rule for a workload may be evaded by its cgroup's removal.
		if o.Removed && byWorkload {
			return forwarder.Route{Action: forwarder.RefuseRemoved}
		}
		return routes[1+p.set.Match(rules.Query{Name: q.Name, Type: q.Type, Workload: o.Workload, Nameserver: o.Addr})]
	}
}
