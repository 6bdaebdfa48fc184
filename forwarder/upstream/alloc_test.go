// SPDX-License-Identifier: Apache-2.0

//go:build !race

package upstream

import (
	"context"
	"testing"
	"time"

	"sotto/internal/dnstest"
)

// instant is a transport that has the reply at once, having waited as another
// would.
type instant struct {
	done  chan struct{}
	reply []byte
}

func (i *instant) exchange(ctx context.Context, _ []byte, until time.Time, w *waiter) ([]byte, error) {
	i.done <- struct{}{}
	return i.reply, w.await(ctx, i.done, time.Now(), until, nil)
}
func (*instant) keep(context.Context, time.Time, bool) {}
func (*instant) reset()                                {}
func (*instant) close()                                {}
func (*instant) stats(*ServerStats)                    {}

// TestChoosingAllocates holds that a query which the first server answers costs
// no goroutine, no context, no timer and no memory, whatever the policy. The race
// detector's own allocations would count, so it is left out there.
func TestChoosingAllocates(t *testing.T) {
	q := query("www.example.", typeA)
	for _, p := range []Policy{Failover, Fastest, Random, Hedged} {
		cfg := hasty(serve(t, zone(t), nil), serve(t, zone(t), nil))
		cfg.Policy = p
		g := groupOf(t, cfg)
		for _, e := range g.endpoints {
			e.link = &instant{done: make(chan struct{}, 1), reply: zone(t).Answer(&dnstest.Request{Query: q, Transport: dnstest.TLS}).Msg}
			for range minReplies {
				e.count.meter.replied(0, int64(time.Millisecond))
			}
			e.scouted.Store(true) // scouts are rare, and cost what they need
		}
		ctx, until := t.Context(), inAWhile()
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := g.Exchange(ctx, q, until); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: it allocates %v times", p, n)
		}
	}
}

// BenchmarkChoosing is what choosing costs where nothing goes wrong.
func BenchmarkChoosing(b *testing.B) {
	q := query("www.example.", typeA)
	for _, p := range []Policy{Failover, Hedged} {
		b.Run(string(p), func(b *testing.B) {
			cfg := hasty(serve(b, zone(b), nil), serve(b, zone(b), nil))
			cfg.Policy = p
			g := groupOf(b, cfg)
			for _, e := range g.endpoints {
				e.link = &instant{done: make(chan struct{}, 1), reply: zone(b).Answer(&dnstest.Request{Query: q, Transport: dnstest.TLS}).Msg}
				e.count.meter.replied(0, int64(time.Millisecond))
				e.scouted.Store(true)
			}
			ctx, until := b.Context(), inAWhile()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Exchange(ctx, q, until); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
