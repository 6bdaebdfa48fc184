// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/health"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// The addresses that distinguish a delayed reply from one that is not.
const inTime, delayed = 1, 2

// sometimesSlow answers after 20 ms, and one query in twenty after 220 ms. The answer shows
// which it was.
func sometimesSlow(tb testing.TB, seed uint64) dnstest.Handler {
	fast, slow := addressed(tb, inTime), addressed(tb, delayed)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, seed))
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		mu.Lock()
		isSlow := rng.IntN(20) == 0
		mu.Unlock()
		if isSlow {
			return dnstest.Delay(220*time.Millisecond, slow).Answer(r)
		}
		return dnstest.Delay(20*time.Millisecond, fast).Answer(r)
	})
}

// load asks n times, concurrently, and counts the delayed replies. Every query has to be
// answered.
func load(t *testing.T, g *Group, n int) (slow int) {
	t.Helper()
	const clients = 20
	var late, asked atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := asked.Add(1); i <= int64(n); i = asked.Add(1) {
				reply, err := servertest.Ask(t, g, fmt.Sprintf("n%d.example.", i))
				if err != nil {
					t.Errorf("query %d: %v", i, err)
				} else if serverOf(reply) == delayed {
					late.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(late.Load())
}

// TestHedgingShortensTail: two servers are slow now and then, independently. With failover
// clients see each slow reply; with hedging they see few, at the cost of few additional
// queries. The test counts delayed replies instead of measuring time, because the machine
// may be slow as well.
func TestHedgingShortensTail(t *testing.T) {
	t.Parallel()
	const n = 2000
	tail := make(map[order.Policy]int)
	for i, p := range []order.Policy{order.Failover, order.Hedged} {
		s1, s2 := servertest.Serve(t, sometimesSlow(t, uint64(2*i+1)), nil), servertest.Serve(t, sometimesSlow(t, uint64(2*i+2)), nil)
		g := groupOf(t, patient(p, s1, s2))
		tail[p] = load(t, g, n)
		st := g.Stats().Servers
		if asked := s1.Stats().Queries() + s2.Stats().Queries(); asked > n*110/100 {
			t.Errorf("%s: %d queries reached the servers, want at most a tenth over %d", p, asked, n)
		}
		if hedges := st[0].Hedges + st[1].Hedges; (hedges > 0) != (p == order.Hedged) {
			t.Errorf("%s: %d hedges", p, hedges)
		}
		if p == order.Hedged && st[0].HedgesWon+st[1].HedgesWon == 0 {
			t.Error("no hedge won")
		}
	}
	t.Logf("delayed replies: %v", tail)
	if tail[order.Failover] < n*3/100 {
		t.Errorf("failover: %d of %d are slow, want about one in twenty", tail[order.Failover], n)
	}
	// It is a third on an idle machine; on a busy one hedges are late as well.
	if tail[order.Hedged]*5 > tail[order.Failover]*4 {
		t.Errorf("%d replies are slow with hedging, %d without", tail[order.Hedged], tail[order.Failover])
	}
}

// TestHedgesAreLimited: if all replies are late, hedging adds its share and no more.
func TestHedgesAreLimited(t *testing.T) {
	t.Parallel()
	const n = 600
	z := servertest.Zone(t)
	sw1, sw2 := dnstest.NewSwitch(dnstest.Delay(5*time.Millisecond, z)), dnstest.NewSwitch(dnstest.Delay(5*time.Millisecond, z))
	cfg := hasty(servertest.Serve(t, sw1, nil), servertest.Serve(t, sw2, nil))
	cfg.Policy, cfg.HedgeShare = order.Hedged, 0.05
	g := groupOf(t, cfg)
	load(t, g, n)
	sw1.Set(dnstest.Delay(150*time.Millisecond, z))
	sw2.Set(dnstest.Delay(150*time.Millisecond, z))
	load(t, g, n)
	st := g.Stats().Servers
	hedges := st[0].Hedges + st[1].Hedges
	if hedges == 0 || hedges > 2*n*5/100 {
		t.Errorf("%d hedges with %d queries, want some, and at most one in twenty", hedges, 2*n)
	}
}

// TestFastestFollows: the faster server gets the queries, also when the other one becomes
// faster.
func TestFastestFollows(t *testing.T) {
	t.Parallel()
	sw1, sw2 := dnstest.NewSwitch(dnstest.Delay(40*time.Millisecond, addressed(t, 1))), dnstest.NewSwitch(addressed(t, 2))
	cfg := hasty(servertest.Serve(t, sw1, nil), servertest.Serve(t, sw2, nil))
	cfg.Policy = order.Fastest
	g := groupOf(t, cfg)
	want := func(server byte) {
		t.Helper()
		servertest.Eventually(t, fmt.Sprintf("server %d is asked", server), func() bool {
			load(t, g, 200)
			for range 10 {
				if serverOf(servertest.MustAsk(t, g, "www.example.")) != server {
					return false
				}
			}
			return true
		})
	}
	want(2)
	sw1.Set(addressed(t, 1))
	sw2.Set(dnstest.Delay(40*time.Millisecond, addressed(t, 2)))
	want(1)
	if st := g.Stats().Servers; st[0].EWMA == 0 || st[1].EWMA == 0 || st[0].P95 == 0 {
		t.Errorf("stats %+v without times", st)
	}
}

func TestRandomSpreads(t *testing.T) {
	s1, s2 := servertest.Serve(t, addressed(t, 1), nil), servertest.Serve(t, addressed(t, 2), nil)
	cfg := hasty(s1, s2)
	cfg.Policy = order.Random
	g := groupOf(t, cfg)
	for range 200 {
		servertest.MustAsk(t, g, "www.example.")
	}
	if a, b := s1.Stats().Queries(), s2.Stats().Queries(); a < 60 || b < 60 {
		t.Errorf("the servers got %d and %d of 200 queries", a, b)
	}
}

// hedging returns a Group whose servers are connected and have known reply times, so that a
// delay of the first is noticed, and whose budget allows a hedge.
func hedging(t *testing.T, servers ...*dnstest.Server) *Group {
	t.Helper()
	cfg := hasty(servers...)
	cfg.Policy, cfg.HedgeShare = order.Hedged, 1
	g := groupOf(t, cfg)
	for i, e := range g.endpoints {
		e.measuring.Store(true) // no random measurement spends the budget
		e.transport.Maintain(t.Context(), time.Now(), true)
		servertest.Eventually(t, "it is connected", func() bool { return g.Stats().Servers[i].Conns == 1 })
		for range health.MinReplies {
			e.meter.Replied(0, int64(time.Duration(1+i)*time.Millisecond))
		}
	}
	return g
}

// TestGoodReplyWins: an error code does not decide a query while another server may do
// better.
func TestGoodReplyWins(t *testing.T) {
	fail := dnstest.Rcode(dnstest.RcodeServFail)
	for _, tc := range []struct {
		what          string
		first, second dnstest.Handler
		rcode         uint16
		server        byte
	}{
		{"the late one is good", dnstest.Delay(150*time.Millisecond, addressed(t, 1)), fail, 0, 1},
		{"the hedge is good", dnstest.Delay(300*time.Millisecond, fail), addressed(t, 2), 0, 2},
		{"both fail", dnstest.Delay(200*time.Millisecond, fail), dnstest.Delay(20*time.Millisecond, dnstest.Rcode(dnstest.RcodeRefused)), dnstest.RcodeRefused, 0},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			g := hedging(t, servertest.Serve(t, tc.first, nil), servertest.Serve(t, tc.second, nil))
			r := servertest.MustAsk(t, g, "www.example.")
			if wire.Rcode(r) != tc.rcode || tc.rcode == 0 && serverOf(r) != tc.server {
				t.Errorf("rcode %d from server %d, want %d from %d", wire.Rcode(r), serverOf(r), tc.rcode, tc.server)
			}
			if st := g.Stats().Servers[1]; st.Hedges != 1 || (st.HedgesWon == 1) != (tc.server == 2) {
				t.Errorf("stats %+v, want one hedge", st)
			}
		})
	}
}

// TestLateRepliesAreNotStrays: a server that is always too late keeps its connection,
// however many of its replies no query waits for, and these replies are measured.
func TestLateRepliesAreNotStrays(t *testing.T) {
	s1, s2 := servertest.Serve(t, dnstest.Delay(60*time.Millisecond, addressed(t, 1)), nil), servertest.Serve(t, addressed(t, 2), nil)
	g := hedging(t, s1, s2)
	servertest.MustAsk(t, g, "www.example.")
	servertest.Eventually(t, "its reply arrives", func() bool { return g.Stats().Servers[0].Late == 1 })
	if st := g.Stats().Servers[0]; st.Strays != 0 || st.Conns != 1 || st.Abandoned != 1 || st.Failed != 0 || st.LastError != "" {
		t.Errorf("stats of the slower server: %+v", st)
	}
	if ewma := g.Stats().Servers[0].EWMA; ewma < 1200*time.Microsecond {
		t.Errorf("its EWMA is still %v: the late reply was not measured", ewma)
	}
}

// TestNoHedgeToUnhealthy: no hedge is sent to a server that is backed off.
func TestNoHedgeToUnhealthy(t *testing.T) {
	g := hedging(t, servertest.Serve(t, dnstest.Delay(60*time.Millisecond, addressed(t, 1)), nil), servertest.Serve(t, addressed(t, 2), nil))
	g.endpoints[1].probing.Store(true) // no probe can succeed
	g.endpoints[1].failed(time.Now(), transport.ErrTimeout)
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 1 {
		t.Errorf("server %d answered, want 1", got)
	}
	if st := g.Stats().Servers[1]; st.Queries != 0 || st.Hedges != 0 {
		t.Errorf("stats of the server that is backed off: %+v", st)
	}
}

// TestHedgeIsCanceled: a hedge is canceled when the first server answers.
func TestHedgeIsCanceled(t *testing.T) {
	g := hedging(t, servertest.Serve(t, dnstest.Delay(60*time.Millisecond, addressed(t, 1)), nil), servertest.Serve(t, dnstest.Silent(), nil))
	reply, err := g.Exchange(t.Context(), servertest.Query("www.example.", dnstest.TypeA), servertest.Deadline()) // the context is not canceled
	if err != nil || serverOf(reply) != 1 {
		t.Errorf("server %d answered, want 1: %v", serverOf(reply), err)
	}
	servertest.Eventually(t, "the hedge is canceled", func() bool {
		st := g.Stats().Servers[1]
		return st.Hedges == 1 && st.HedgesWon == 0 && st.Abandoned == 1 && st.InFlight == 0
	})
}
