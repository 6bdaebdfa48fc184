// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"sotto/internal/dnstest"
)

// Serve runs a fake DNS server until the test ends.
func Serve(t testing.TB, cfg dnstest.Config) *dnstest.Server {
	t.Helper()
	srv, err := dnstest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return srv
}

// ServeLoopback serves DNS over TLS on loopback until the test ends. It returns the server's
// address.
func ServeLoopback(t testing.TB, ca *dnstest.CA, h dnstest.Handler) (srv *dnstest.Server, addr string) {
	t.Helper()
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{UpstreamName}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := dnstest.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	return Serve(t, dnstest.Config{Handler: h, TLS: []net.Listener{l}, Certificate: cert}), l.Addr().String()
}
