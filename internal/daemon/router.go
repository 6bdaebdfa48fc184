// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sotto/forwarder"
	"sotto/forwarder/rules"
	"sotto/forwarder/upstream/original"
	"sotto/forwarder/wire"
	"sotto/internal/config"
	"sotto/internal/kubernetes/cluster"
)

// deciders decide what the rules of the configuration do not. Both functions are called for every
// query, concurrently; they neither block nor allocate.
type deciders struct {
	local func(*wire.Query, *forwarder.Origin) bool // the query goes to the local resolver that was asked
	pod   func(workload string) *rules.Pod          // nil: the workload is not a pod
}

// newRouter returns a router that chooses among the groups of t by the rules of a plan: one
// look-up per query, in tables that do not change. Queries that no rule matches, or only the one
// for names that the cluster of this node should be asked, may go to the local resolver that was
// asked: a local resolver may know the cluster.
func newRouter(p config.Rules, t table, by deciders) forwarder.Router {
	routes := make([]forwarder.Route, 1+len(p.Uses)) // by number of the rule, from 1
	routes[0] = forwarder.Route{Upstream: t[config.DefaultGroup], Scope: t.scope(config.DefaultGroup)}
	originals := make([]*original.Upstream, len(routes)) // those of routes whose upstream is "original"
	originals[0] = t[config.DefaultGroup].original()
	for i, use := range p.Uses {
		r := forwarder.Route{Rule: i + 1, Records: p.Records[i], Builtin: p.Builtin(i + 1)}
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
			r.Upstream, originals[i+1] = t[use], t[use].original()
			r.Scope = t.scope(use)
		}
		routes[i+1] = r
	}
	if len(p.Uses) == 0 {
		return func(q *wire.Query, o *forwarder.Origin) forwarder.Route {
			if by.local(q, o) {
				return forwarder.Route{Action: forwarder.Local}
			}
			return bound(&routes[0], originals[0], o)
		}
	}
	byWorkload, byPod := p.Set.UsesWorkload(), p.Set.UsesPods()
	return func(q *wire.Query, o *forwarder.Origin) forwarder.Route {
		// Removing its cgroup must not exempt a workload from a rule.
		if o.Removed && byWorkload {
			return forwarder.Route{Action: forwarder.RefuseRemoved}
		}
		rq := rules.Query{Name: q.Name, Type: q.Type, Opcode: q.Opcode, RD: q.RD, Workload: o.Workload, Nameserver: o.Addr}
		if byPod {
			rq.Pod = by.pod(o.Workload)
		}
		i := p.Set.Match(rq)
		if i == rules.UnknownPod {
			return forwarder.Route{Action: forwarder.NotReady}
		}
		r := &routes[1+i]
		if (i == rules.NoRule || r.Builtin == cluster.RuleElsewhere) && by.local(q, o) {
			return forwarder.Route{Action: forwarder.Local}
		}
		return bound(r, originals[1+i], o)
	}
}
