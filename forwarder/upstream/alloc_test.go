// SPDX-License-Identifier: Apache-2.0

//go:build !race

package upstream

import (
	"context"
	"testing"
	"time"

	"sotto/forwarder/upstream/health"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// instant is a transport that has the reply at once. It waits as a real one does.
type instant struct {
	done  chan struct{}
	reply []byte
}

func (i *instant) Exchange(ctx context.Context, _ []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	select {
	case i.done <- struct{}{}:
	default: // the previous query was superseded before it took its reply
	}
	return i.reply, w.Wait(ctx, i.done, time.Now(), until, nil)
}
func (*instant) Maintain(context.Context, time.Time, bool) {}
func (*instant) Reset()                                    {}
func (*instant) Close()                                    {}
func (*instant) Stats() transport.Stats                    { return transport.Stats{} }

// TestChoosingAllocates: a query that the first server answers needs no goroutine, no
// context, no timer and no memory, whatever the policy. It does not run with the race
// detector, whose own allocations would count.
func TestChoosingAllocates(t *testing.T) {
	q := servertest.Query("www.example.", dnstest.TypeA)
	for _, p := range []order.Policy{order.Failover, order.Fastest, order.Random, order.Hedged} {
		cfg := hasty(servertest.Serve(t, servertest.Zone(t), nil), servertest.Serve(t, servertest.Zone(t), nil))
		cfg.Policy = p
		g := groupOf(t, cfg)
		for _, e := range g.endpoints {
			e.transport = &instant{done: make(chan struct{}, 1), reply: servertest.Zone(t).Answer(&dnstest.Request{Query: q, Transport: dnstest.TLS}).Msg}
			for range health.MinReplies {
				e.meter.Replied(0, int64(time.Millisecond))
			}
			e.measuring.Store(true) // measurements are rare, and may allocate
		}
		ctx, until := t.Context(), servertest.Deadline()
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := g.Exchange(ctx, q, until); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", p, n)
		}
	}
}

// BenchmarkChoosing measures server selection without failures.
func BenchmarkChoosing(b *testing.B) {
	q := servertest.Query("www.example.", dnstest.TypeA)
	for _, p := range []order.Policy{order.Failover, order.Hedged} {
		b.Run(string(p), func(b *testing.B) {
			cfg := hasty(servertest.Serve(b, servertest.Zone(b), nil), servertest.Serve(b, servertest.Zone(b), nil))
			cfg.Policy = p
			g := groupOf(b, cfg)
			for _, e := range g.endpoints {
				e.transport = &instant{done: make(chan struct{}, 1), reply: servertest.Zone(b).Answer(&dnstest.Request{Query: q, Transport: dnstest.TLS}).Msg}
				e.meter.Replied(0, int64(time.Millisecond))
				e.measuring.Store(true)
			}
			ctx, until := b.Context(), servertest.Deadline()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Exchange(ctx, q, until); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
