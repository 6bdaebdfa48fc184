// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net/netip"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/plain"
	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/original"
	"sotto/internal/config"
	"sotto/internal/status"
)

// nameservers are the servers of a member whose upstream is "original".
type nameservers struct {
	*original.Upstream
	plain *plain.Client // for discoveries
}

// Exchange answers a query of a client that did not ask a nameserver, such as Sotto's own.
func (n *nameservers) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	return n.For(netip.AddrPort{}).Exchange(ctx, query, until)
}

// NetworkChanged notifies all groups.
func (n *nameservers) NetworkChanged() {
	n.plain.NetworkChanged()
	n.Upstream.NetworkChanged()
}

// Close closes all groups.
func (n *nameservers) Close() error {
	err := n.Upstream.Close()
	n.plain.Close()
	return err
}

// openOriginal creates the servers of a member whose upstream is "original". t has its fallback.
func (m *member) openOriginal(name string, p config.Group, cfg upstream.Config, t table) (err error) {
	n := &nameservers{plain: plain.New(plain.Config{Control: cfg.Control, Log: cfg.Log})}
	o := original.Config{
		Identity: m.id, Group: cfg, Discovery: p.Original.Discovery,
		Ask: func(ctx context.Context, to netip.AddrPort, query []byte, until time.Time) ([]byte, error) {
			return n.plain.Exchange(ctx, to, 0, query, false, until)
		},
		Wrap: func(x original.Exchanger) original.Wrapped { return exchanger(p, x, m.validated) },
	}
	o.Name = scopeOf(name, m.treatment)
	if m.dependsOnNetwork() {
		o.Mark = config.NetworkMark
	}
	if fallback, ok := t[p.Original.Fallback]; ok {
		o.Fallback = fallback
	}
	if n.Upstream, err = original.New(m.groups.ctx, o); err != nil {
		n.plain.Close()
		return err
	}
	m.servers, m.answers = n, original.Wrapped{Exchanger: n, Flushed: []func(){n.Flush}}
	return nil
}

// original returns the nameservers of the member, or nil if it has servers.
func (m *member) original() *original.Upstream {
	if m == nil {
		return nil
	}
	if n, ok := m.servers.(*nameservers); ok {
		return n.Upstream
	}
	return nil
}

// bound returns the route of a query to the nameserver of its origin, if up is not nil.
func bound(r *forwarder.Route, up *original.Upstream, o *forwarder.Origin) forwarder.Route {
	if up == nil {
		return *r
	}
	n := up.For(netip.AddrPortFrom(o.Addr.Addr().Unmap(), o.Addr.Port()))
	out := *r
	out.Upstream, out.Scope = n, n.Scope()
	return out
}

// nameservers returns the state of the nameservers of the group with that key; nil if it has
// servers.
func (g *groups) nameservers(key string) (list []status.Nameserver) {
	g.mu.Lock()
	m := g.inForce[key]
	g.mu.Unlock()
	up := m.original()
	if up == nil {
		return nil
	}
	list = []status.Nameserver{}
	for _, s := range up.Nameservers() {
		list = append(list, nameserverStatus(s))
	}
	return list
}

// nameserver returns the state of one of them. It reports false if the group has servers.
func (g *groups) nameserver(key string, at netip.AddrPort) (s status.Nameserver, ok bool) {
	g.mu.Lock()
	m := g.inForce[key]
	g.mu.Unlock()
	up := m.original()
	if up == nil {
		return s, false
	}
	st, known := up.Find(at)
	if !known {
		st = original.Stats{Nameserver: at, State: original.StateUnknown}
	}
	return nameserverStatus(st), true
}

func nameserverStatus(s original.Stats) status.Nameserver {
	return status.Nameserver{
		Nameserver: s.Nameserver, State: s.State, Found: s.How, Server: s.Server, Queries: s.Queries, Fallbacks: s.Fallbacks,
		Error: s.Error, RetrySeconds: s.Retry.Seconds(),
	}
}
