// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"sotto/forwarder"
	"sotto/forwarder/localnames"
	"sotto/forwarder/wire"
	"sotto/internal/config"
)

// locals decides which queries go to a local resolver, because only that can know the name.
type locals struct {
	isLocal func(netip.Addr) bool // nil for `serve`

	names atomic.Pointer[localnames.Set] // as configured, with the domains of systemd-resolved

	mu         sync.Mutex
	configured *localnames.Set
	domains    []string
}

// configure sets the names of a plan.
func (l *locals) configure(names *localnames.Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configured = names
	l.update()
}

// setDomains sets the domains of systemd-resolved.
func (l *locals) setDomains(domains []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains = domains
	l.update()
}

// update stores the names. l.mu is held.
func (l *locals) update() {
	names := l.configured
	if names != nil && names.UsesResolved() && len(l.domains) > 0 {
		names = names.With(l.domains)
	}
	l.names.Store(names)
}

// match reports whether a query goes to the local resolver that the client asked. It
// allocates nothing and takes no lock.
func (l *locals) match(q *wire.Query, o *forwarder.Origin) bool {
	names := l.names.Load()
	return names != nil && names.Contains(q.Name, q.Type) && l.isLocal != nil && o.Addr.IsValid() && l.isLocal(o.Addr.Addr())
}

// router returns the router of a plan.
func (r *resolver) router(p config.Plan, t table) forwarder.Router {
	r.locals.configure(p.Local.Names)
	return newRouter(p.Rules, t, r.locals.match)
}
