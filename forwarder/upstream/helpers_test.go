// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"testing"

	"sotto/forwarder/upstream/servertest"
	"sotto/internal/dnstest"
)

// group returns a Group of these servers, by name and with the tests' CA.
func group(tb testing.TB, servers ...*dnstest.Server) *Group {
	tb.Helper()
	var cfg Config
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, Server{Addr: s.Addr(), Name: servertest.Name})
	}
	return groupOf(tb, cfg)
}

// groupOf returns a Group with that configuration, and the tests' CA by default.
func groupOf(tb testing.TB, cfg Config) *Group {
	tb.Helper()
	if cfg.RootCAs == nil {
		cfg.RootCAs = servertest.CA().Pool
	}
	g, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := g.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return g
}
