// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"testing"

	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
)

// TestBudget: hedges never exceed the share, and only a few are saved up.
func TestBudget(t *testing.T) {
	b := newBudget(0.08)
	spent := 0
	const n = 10_000
	for i := range n {
		b.earn()
		if b.spend() {
			spent++
		}
		if most := 0.08 * float64(i+1); float64(spent) > most {
			t.Fatalf("%d hedges after %d queries, want at most %.1f", spent, i+1, most)
		}
	}
	if spent < n*8/100-1 {
		t.Errorf("%d hedges in %d queries, want the whole share", spent, n)
	}
	for range n {
		b.earn()
	}
	for spent = 0; b.spend(); spent++ {
	}
	if spent != maxTokens {
		t.Errorf("%d hedges were saved up, want %d", spent, maxTokens)
	}
}

// TestNewChecksPolicy checks the settings of server selection.
func TestNewChecksPolicy(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	for what, change := range map[string]func(*Config){
		"policy":         func(c *Config) { c.Policy = "best" },
		"negative share": func(c *Config) { c.HedgeShare = -0.1 },
		"share over 1":   func(c *Config) { c.HedgeShare = 1.5 },
	} {
		cfg := hasty(s)
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if g := group(t, s); g.cfg.Policy != order.Failover || g.cfg.HedgeShare != DefaultHedgeShare {
		t.Errorf("defaults %q and %v", g.cfg.Policy, g.cfg.HedgeShare)
	}
}
