// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"testing"
	"time"

	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
	"sotto/internal/dnstest"
)

// TestMeasureSilentServer: a server that accepts connections and does not answer gets a few
// measurements and is backed off, although the others answer every query. Other servers are
// measured meanwhile.
func TestMeasureSilentServer(t *testing.T) {
	for _, p := range []order.Policy{order.Fastest, order.Hedged} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			cfg := hasty(servertest.Serve(t, addressed(t, 1), nil), servertest.Serve(t, dnstest.Silent(), nil), servertest.Serve(t, addressed(t, 3), nil))
			cfg.Policy, cfg.HedgeShare = p, 1
			g := groupOf(t, cfg)
			asked := 0
			servertest.Eventually(t, "the silent server is backed off, and the other one measured", func() bool {
				servertest.MustAsk(t, g, "www.example.")
				asked++
				st := g.Stats().Servers
				return st[1].LastError != "" && st[2].EWMA != 0
			})
			for range 100 {
				servertest.MustAsk(t, g, "www.example.")
				asked++
			}
			if st := g.Stats().Servers[1]; st.Suspicions == 0 || st.Queries-st.Probes > 10 {
				t.Errorf("stats of the silent server after %d queries: %+v", asked, st)
			}
		})
	}
}

// TestMeasureSlowName: a measurement of a name that takes too long is no failure of its server,
// which answers the probe.
func TestMeasureSlowName(t *testing.T) {
	t.Parallel()
	slow := dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if bytes.Contains(r.Query, []byte("\x03www")) {
			return dnstest.Silent().Answer(r)
		}
		return addressed(t, 2).Answer(r)
	})
	cfg := hasty(servertest.Serve(t, addressed(t, 1), nil), servertest.Serve(t, slow, nil))
	cfg.Policy, cfg.Timeout, cfg.AttemptTimeout, cfg.SilentTimeout = order.Fastest, 4*time.Second, 9*time.Second, 9*time.Second
	g := groupOf(t, cfg)
	servertest.MustAsk(t, g, "www.example.")
	servertest.Eventually(t, "the measurement has failed", func() bool { return g.Stats().Servers[1].Failed > 0 })
	if st := g.Stats().Servers[1]; st.Probes == 0 || st.LastError != "" || st.Backoff != 0 || st.Suspect {
		t.Errorf("stats %+v, want a probe and no backoff", st)
	}
}

// TestCloseDuringMeasurement: Close does not wait for the reply to a measurement.
func TestCloseDuringMeasurement(t *testing.T) {
	t.Parallel()
	cfg := patient(order.Fastest, servertest.Serve(t, addressed(t, 1), nil), servertest.Serve(t, dnstest.Silent(), nil))
	cfg.Timeout = time.Hour
	g := groupOf(t, cfg)
	servertest.MustAsk(t, g, "www.example.")
	servertest.Eventually(t, "the measurement is in flight", func() bool { return g.Stats().Servers[1].InFlight > 0 })
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if g.endpoints[1].measuring.Load() {
		t.Error("a measurement outlives Close")
	}
}
