// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/localnames"
	"sotto/forwarder/wire"
	"sotto/internal/config"
	"sotto/internal/resolved"
)

// domainsTimeout limits how long a start waits for the domains of systemd-resolved. It asks for
// them while it loads the programs, which takes longer than an answer.
const domainsTimeout = 250 * time.Millisecond

// startDomains starts to read the domains of systemd-resolved, and returns the channel that
// receives them: none if they cannot be read in time.
func startDomains(ctx context.Context, p config.Plan) <-chan []string {
	out := make(chan []string, 1)
	if !p.Local.Names.UsesResolved() {
		out <- nil
		return out
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, domainsTimeout)
		defer cancel()
		found := make(chan []string, 1)
		go func() {
			domains, _ := resolved.Domains(ctx) // without systemd-resolved there are none
			found <- domains
		}()
		select {
		case domains := <-found:
			out <- domains
		case <-ctx.Done():
			out <- nil
		}
	}()
	return out
}

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
	if names.UsesResolved() && len(l.domains) > 0 {
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
	r.pods.Configure(p.Kubernetes.Pods)
	return newRouter(p.Rules, t, deciders{local: r.locals.match, pod: r.pods.Pod})
}
