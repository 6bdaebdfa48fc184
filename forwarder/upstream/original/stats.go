// SPDX-License-Identifier: Apache-2.0

package original

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sotto/forwarder/upstream"
)

// States of a nameserver.
const (
	StateUnknown     = "unknown"     // no query yet, or the network changed
	StateDiscovering = "discovering" // whether it offers a server
	StateEncrypted   = "encrypted"   // its server gets the queries
	StateFallback    = "fallback"    // the fallback gets them, or they fail
)

// Stats are the statistics of one nameserver since it was first asked.
type Stats struct {
	Nameserver netip.AddrPort
	State      string
	How        string // how its server was found: "known", "tls" or "ddr"
	Server     string // its server, as [upstream.Server.String] returns it
	Queries    uint64 // that the cache did not answer
	Fallbacks  uint64 // of those, the ones that were sent to the fallback
	Error      string // why its server is not used
	// Retry is when it is tried again.
	Retry time.Duration
}

// Nameservers returns the statistics of all nameservers that are remembered, by address.
func (u *Upstream) Nameservers() (list []Stats) {
	for _, n := range *u.byAddr.Load() {
		if n.addr.IsValid() { // else it stands for queries that no client sent
			list = append(list, n.stats())
		}
	}
	slices.SortFunc(list, func(a, b Stats) int { return a.Nameserver.Compare(b.Nameserver) })
	return list
}

// Find returns the statistics of one nameserver. It reports false if that was not asked yet.
func (u *Upstream) Find(nameserver netip.AddrPort) (Stats, bool) {
	n := (*u.byAddr.Load())[nameserver]
	if n == nil {
		return Stats{}, false
	}
	return n.stats(), true
}

func (n *Nameserver) stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := Stats{Nameserver: n.addr, State: StateUnknown, Queries: n.queries.Load(), Fallbacks: n.fallbacks.Load()}
	switch {
	case n.found != nil:
		s.State, s.How, s.Server = StateEncrypted, n.found.how, n.found.server.String()
	case n.err != nil:
		s.State, s.Error, s.Retry = StateFallback, strings.ReplaceAll(n.err.Error(), "\n", "; "), max(0, time.Until(n.retryAt))
	case n.pending != nil:
		s.State = StateDiscovering
	}
	return s
}

// Stats returns the statistics of the servers whose groups are open.
func (u *Upstream) Stats() (s upstream.Stats) {
	for _, n := range *u.byAddr.Load() {
		n.mu.Lock()
		g := n.group
		n.mu.Unlock()
		if g != nil {
			s.Servers = append(s.Servers, g.Stats().Servers...)
		}
	}
	slices.SortFunc(s.Servers, func(a, b upstream.ServerStats) int { return cmp.Compare(a.Server, b.Server) })
	return s
}
