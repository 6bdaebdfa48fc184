// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/health"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// patient returns a configuration in which a silent server delays a query by four and a
// half seconds, unless its silence is noticed.
func patient(p order.Policy, servers ...*dnstest.Server) Config {
	cfg := hasty(servers...)
	cfg.Policy = p
	cfg.Timeout, cfg.AttemptTimeout, cfg.SilentTimeout = 9*time.Second, 9*time.Second, 9*time.Second
	return cfg
}

// maxWait limits how long a client waits in these tests: far more than promised, because
// the machine may be busy, and less than without the promise.
const maxWait = 3 * time.Second

// TestSilence: under each policy, when one of two servers falls silent on connections that
// stay open, no client waits long or gets an error, and queries soon go to the other one.
func TestSilence(t *testing.T) {
	for _, p := range []order.Policy{order.Failover, order.Fastest, order.Random, order.Hedged} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			first := dnstest.NewSwitch(addressed(t, 1))
			// The second server is much slower, so that also on a busy machine the first one is the fastest.
			second := dnstest.NewSwitch(dnstest.Delay(100*time.Millisecond, addressed(t, 2)))
			s1, s2 := servertest.Serve(t, first, nil), servertest.Serve(t, second, nil)
			g := groupOf(t, patient(p, s1, s2))
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("stats %+v", g.Stats().Servers)
				}
			})
			servertest.Eventually(t, "the first server is asked", func() bool {
				load(t, g, 200)
				for range 20 { // by chance, under one of the policies
					if serverOf(servertest.MustAsk(t, g, "www.example.")) == 1 {
						return true
					}
				}
				return false
			})
			second.Set(addressed(t, 2))
			var worst atomic.Int64
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer func() {
				stop()
				wg.Wait()
			}()
			for range 10 {
				wg.Go(func() {
					for ctx.Err() == nil {
						started := time.Now()
						mustNotFail(t, g)
						for took := int64(time.Since(started)); ; {
							if old := worst.Load(); took <= old || worst.CompareAndSwap(old, took) {
								break
							}
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			first.Set(dnstest.Silent())
			servertest.Eventually(t, "its silence is noticed", func() bool { return g.Stats().Servers[0].Suspicions > 0 })
			time.Sleep(20 * time.Millisecond)
			stop()
			wg.Wait()
			if w := time.Duration(worst.Load()); w > maxWait {
				t.Errorf("a client waited %v", w)
			}
			before := s1.Stats().Queries()
			for range 50 {
				if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
					t.Fatalf("server %d answered", got)
				}
			}
			// It is not measured either; it gets only a probe now and then.
			if n := s1.Stats().Queries() - before; n > 3 {
				t.Errorf("the silent server got %d of 50 queries", n)
			}
		})
	}
}

// mustNotFail asks, and must not get an error.
func mustNotFail(t *testing.T, g *Group) {
	if _, err := servertest.Ask(t, g, "www.example."); err != nil {
		t.Errorf("an error: %v", err)
	}
}

// TestSilenceEnds: with the next byte from a server it is no longer suspect, and is asked
// again at once.
func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	first := dnstest.NewSwitch(addressed(t, 1))
	s1, s2 := servertest.Serve(t, first, nil), servertest.Serve(t, addressed(t, 2), nil)
	g := groupOf(t, patient(order.Failover, s1, s2))
	servertest.MustAsk(t, g, "www.example.")
	first.Set(dnstest.Hold(release, addressed(t, 1)))
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
		t.Errorf("server %d answered, want 2", got)
	}
	if st := g.Stats().Servers[0]; !st.Suspect || st.Suspicions == 0 || st.Backoff != 0 || st.Abandoned == 0 || st.Failed != 0 {
		t.Errorf("stats %+v, want it to be suspect, without a failure", st)
	}
	close(release)
	first.Set(addressed(t, 1))
	servertest.Eventually(t, "it is no longer suspect", func() bool { return !g.Stats().Servers[0].Suspect })
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 1 {
		t.Errorf("server %d answered, want 1 again", got)
	}
	if n := s1.Stats().Conns; n != 1 {
		t.Errorf("%d connections to the first server, want the one", n)
	}
}

// TestSilenceBecomesFailure: if a probe of a suspect server gets no reply, that is a failure
// and the server is backed off. A later probe finds it healthy.
func TestSilenceBecomesFailure(t *testing.T) {
	t.Parallel()
	first := dnstest.NewSwitch(dnstest.Silent())
	g := groupOf(t, hasty(servertest.Serve(t, first, nil), servertest.Serve(t, addressed(t, 2), nil)))
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
		t.Errorf("server %d answered, want 2", got)
	}
	servertest.Eventually(t, "it has failed", func() bool { return g.Stats().Servers[0].LastError != "" })
	first.Set(addressed(t, 1))
	servertest.Eventually(t, "back to the first", func() bool { return serverOf(servertest.MustAsk(t, g, "www.example.")) == 1 })
}

// TestSilentChain: of four servers only the last one is good. Each is asked when the previous
// one is silent or sends an error code.
func TestSilentChain(t *testing.T) {
	t.Parallel()
	servers := []*dnstest.Server{
		servertest.Serve(t, dnstest.Silent(), nil), servertest.Serve(t, dnstest.Silent(), nil),
		servertest.Serve(t, dnstest.Rcode(dnstest.RcodeServFail), nil), servertest.Serve(t, addressed(t, 4), nil),
	}
	g := groupOf(t, patient(order.Failover, servers...))
	started := time.Now()
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 4 {
		t.Errorf("server %d answered, want 4", got)
	}
	if took := time.Since(started); took > maxWait {
		t.Errorf("it took %v", took)
	}
	if st := g.Stats().Servers; !st[0].Suspect || !st[1].Suspect || st[2].Suspect {
		t.Errorf("stats %+v, want the first two to be suspect", st)
	}
}

// TestFailureDuringSilence: when the server that is asked because another is silent fails,
// the next one is asked at once.
func TestFailureDuringSilence(t *testing.T) {
	t.Parallel()
	g := groupOf(t, patient(order.Failover,
		servertest.Serve(t, dnstest.Silent(), nil), servertest.Serve(t, dnstest.Rcode(dnstest.RcodeServFail), nil), servertest.Serve(t, addressed(t, 3), nil)))
	m := &g.endpoints[0].meter
	m.Suspect(2) // while a reply was pending that took a second: it may be silent for that long
	m.Replied(1, int64(time.Second))
	m.BytesRead(int64(time.Second))
	started := time.Now()
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 3 {
		t.Errorf("server %d answered, want 3", got)
	}
	if took := time.Since(started); took > maxWait {
		t.Errorf("it took %v, want little more than the second until silence is noticed", took)
	}
}

// blackHole returns an address that drops SYNs: a listener whose backlog is full.
func blackHole(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(servertest.Loopback, uint16(name.(*syscall.SockaddrInet4).Port))
	for range 16 {
		c, err := net.DialTimeout("tcp", at.String(), 300*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the backlog is not full")
	return at
}

// TestDialSilence: queries do not wait for a server whose address drops all packets while
// there is another one.
func TestDialSilence(t *testing.T) {
	t.Parallel()
	hole := blackHole(t)
	cfg := patient(order.Failover, servertest.Serve(t, addressed(t, 2), nil))
	cfg.Servers = append([]Server{{Addr: hole, Name: servertest.Name}}, cfg.Servers...)
	g := groupOf(t, cfg)
	for range 5 {
		started := time.Now()
		if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
			t.Errorf("server %d answered", got)
		}
		if took := time.Since(started); took > maxWait {
			t.Errorf("it took %v", took)
		}
	}
	// The attempt of the first query was abandoned, and did not fail.
	if st := g.Stats().Servers[0]; !st.Suspect || st.Abandoned == 0 || st.Failed != 0 {
		t.Errorf("stats of the black hole %+v", st)
	}
}

// TestNextServerIsPrepared: the connection to the next server is opened while the query
// still waits for the first one.
func TestNextServerIsPrepared(t *testing.T) {
	t.Parallel()
	s2 := servertest.Serve(t, addressed(t, 2), nil)
	g := groupOf(t, patient(order.Failover, servertest.Serve(t, dnstest.Delay(health.MinSilence*3/4, addressed(t, 1)), nil), s2))
	servertest.MustAsk(t, g, "www.example.")
	servertest.Eventually(t, "it is dialled", func() bool { return s2.Stats().Handshakes >= 1 })
}

// TestProbe: after a failure, probes and no client's queries are sent to the server, however
// long it takes until it is healthy.
func TestProbe(t *testing.T) {
	t.Parallel()
	const typeNS = 2
	first := dnstest.NewSwitch(dnstest.ResetAll())
	s1 := servertest.Serve(t, first, func(c *dnstest.Config) { c.LogQueries = 1000 })
	g := groupOf(t, hasty(s1, servertest.Serve(t, addressed(t, 2), nil)))
	var st ServerStats
	servertest.Eventually(t, "three probes", func() bool {
		if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
			t.Fatalf("server %d answered", got)
		}
		st = g.Stats().Servers[0]
		return st.Probes >= 3
	})
	first.Set(addressed(t, 1))
	servertest.Eventually(t, "back to the first", func() bool { return serverOf(servertest.MustAsk(t, g, "www.example.")) == 1 })
	// The first failure and each failed probe double the time. The last probe may have failed
	// before this look at it.
	if limit := health.BackoffBase << st.Probes * 5 / 4; st.Backoff > limit {
		t.Errorf("the backoff is %v after %d probes: want at most %v", st.Backoff, st.Probes, limit)
	}
	clients := 0
	log := s1.Log()
	for i, q := range log {
		if q.Type != typeNS {
			clients++
			if i != 0 && i != len(log)-1 {
				t.Errorf("query %d of %d to a server that is down is a client's: %q", i+1, len(log), q.Name)
			}
		}
	}
	if clients != 2 {
		t.Errorf("%d queries of clients, want the first and the last", clients)
	}
}

// TestCancelRace: when a client cancels its query, background attempts are canceled, too.
func TestCancelRace(t *testing.T) {
	t.Parallel()
	s1, s2 := servertest.Serve(t, dnstest.Silent(), nil), servertest.Serve(t, dnstest.Silent(), nil)
	g := groupOf(t, patient(order.Failover, s1, s2))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := servertest.AskContext(ctx, t, g, "www.example.")
		done <- err
	}()
	servertest.Eventually(t, "both are asked", func() bool { return s2.Stats().Queries() > 0 })
	cancel()
	servertest.WantEDE(t, <-done, wire.EDEOther, "the query was canceled")
	servertest.Eventually(t, "only the probe is in flight", func() bool {
		st := g.Stats().Servers
		return st[0].InFlight <= 1 && st[1].InFlight == 0 && st[0].Abandoned == 1 && st[1].Abandoned == 1
	})
}

// TestSchedulingDelay: a timer that fires late is the machine's fault, not the server's.
func TestSchedulingDelay(t *testing.T) {
	for late, want := range map[time.Duration]bool{0: false, time.Millisecond: false, schedulingDelay: false, schedulingDelay + 1: true, time.Hour: true} {
		if got := wasDelayed(1000, 1000+int64(late)); got != want {
			t.Errorf("%v late: %v", late, got)
		}
	}
}
