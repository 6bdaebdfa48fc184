// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// repeats records what is offered.
type repeats struct {
	mu    sync.Mutex
	names []string
}

func (r *repeats) Version() uint64 { return 7 }

func (r *repeats) Accept(a *Repeatable, version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := wire.Outline(a.Reply.Msg)
	if version == 7 && time.Until(a.Expires) > 0 && a.Refresh.Before(a.Expires) && time.Since(a.Stored) < time.Minute {
		r.names = append(r.names, wire.Name(q.Name))
	}
}

func (r *repeats) list() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.names, " ")
}

// TestRepeats checks which answers are offered to a repeater: those that were used more than once, of
// an upstream, over UDP, for a client with a class, unless their addresses are rotated.
func TestRepeats(t *testing.T) {
	c := newCache(t)
	c.Repeat(1)
	var class atomic.Uint32
	class.Store(1)
	cfg := Config{Upstream: newZoneUpstream(t), Cache: c, Repeats: func(netip.Addr) uint32 { return class.Load() }, Route: func(q *wire.Query, _ *Origin) Route {
		if strings.HasPrefix(wire.Name(q.Name), "no.") {
			return Route{Action: Refuse, Rule: 1}
		}
		return Route{}
	}}
	f, addr := startForwarder(t, cfg, "127.0.0.1:0")
	var to repeats
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.RunRepeats(ctx, &to) }()
	use := func(proto, name string, n int) {
		t.Helper()
		for range n {
			ask(t, proto, addr, question(name, dns.TypeA))
		}
	}
	use("udp", "once.example", 2) // the first one is a miss
	use("tcp", "tcp.example", 5)
	use("udp", "no.example", 5)
	use("udp", "a-3.example", 5) // its addresses are rotated
	use("udp", "servfail.example", 5)
	use("udp", "Twice.example", 5)
	use("udp", "nxdomain.example", 5)
	class.Store(0)
	use("udp", "classless.example", 5)
	for end := time.Now().Add(10 * time.Second); strings.Count(to.list(), " ") < 1 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := to.list(); got != "twice.example. nxdomain.example." {
		t.Errorf("offered: %s", got)
	}
}
