// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sotto/forwarder"
	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
	"sotto/internal/config"
)

// newRouter returns a router that chooses among the groups of t by the rules of a plan: one
// look-up per query, in tables that do not change. Queries that no rule matches go to the
// local resolver that was asked if local reports true.
func newRouter(p config.Rules, t table, local func(*wire.Query, *forwarder.Origin) bool) forwarder.Router {
	routes := make([]forwarder.Route, 1+len(p.Uses)) // by number of the rule, from 1
	routes[0] = forwarder.Route{Upstream: t[config.DefaultGroup]}
	for i, use := range p.Uses {
		r := forwarder.Route{Rule: i + 1, Records: p.Records[i]}
		switch use {
		case "":
			r.Action = forwarder.Static
		case config.UsePlain:
			r.Action = forwarder.Plain
		case config.UseRefuse:
			r.Action = forwarder.Refuse
		case config.UseNoData:
			r.Action = forwarder.NoData
		case config.UseNXDomain:
			r.Action = forwarder.NXDomain
		case config.UseNull:
			r.Action = forwarder.Null
		default:
			r.Upstream = t[use]
			if use != config.DefaultGroup {
				r.Scope = use
			}
		}
		routes[i+1] = r
	}
	if len(p.Uses) == 0 {
		return func(q *wire.Query, o *forwarder.Origin) forwarder.Route {
			if local(q, o) {
				return forwarder.Route{Action: forwarder.Local}
			}
			return routes[0]
		}
	}
	byWorkload := p.Set.UsesWorkload()
	return func(q *wire.Query, o *forwarder.Origin) forwarder.Route {
		// Removing its cgroup must not exempt a workload from a rule.
		if o.Removed && byWorkload {
			return forwarder.Route{Action: forwarder.RefuseRemoved}
		}
		i := 1 + p.Set.Match(rules.Query{Name: q.Name, Type: q.Type, Opcode: q.Opcode, RD: q.RD, Workload: o.Workload, Nameserver: o.Addr})
		if i == 0 && local(q, o) {
			return forwarder.Route{Action: forwarder.Local}
		}
		return routes[i]
	}
}
