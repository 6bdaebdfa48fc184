// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// TestClientCertReload: each group authenticates with its own certificate, over its own
// connections, and a reload reads the files again.
func TestClientCertReload(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	clients, strangers := must(dnstest.NewCA()), must(dnstest.NewCA())
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	issue := func(by *dnstest.CA, name string) {
		cert, key, err := dnstest.PEMPair(must(by.Issue(dnstest.CertOptions{Names: []string{name}, Client: true})))
		if err != nil {
			t.Fatal(err)
		}
		e2e.WriteFile(t, path(name+".pem"), string(cert))
		e2e.WriteFile(t, path(name+".key"), string(key))
	}
	e2e.WriteFile(t, path("ca.pem"), string(ca.PEM()))
	issue(clients, "member")
	issue(strangers, "stranger")
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{A: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	if err != nil {
		t.Fatal(err)
	}
	srv := e2e.Serve(t, dnstest.Config{
		Handler: zone, TLS: []net.Listener{must(dnstest.Listen(netip.MustParseAddrPort("127.0.0.1:0")))},
		Certificate: must(ca.Issue(dnstest.CertOptions{Names: []string{e2e.UpstreamName}})),
		ClientCAs:   clients.Pool(), MinVersion: tls.VersionTLS12,
	})
	group := func(client string) string {
		return fmt.Sprintf("ca-file = %q\nupstream = [%q]\nclient-cert = %q\nclient-key = %q\n",
			path("ca.pem"), srv.Addr().String()+"#"+e2e.UpstreamName, path(client+".pem"), path(client+".key"))
	}
	text := group("member") + "[[group]]\nname = \"other\"\n" + group("stranger") + "[[rule]]\nname = \"other.example\"\nuse = \"other\"\n"
	s, _ := startServing(t, text)
	check := func(name, want string) {
		t.Helper()
		if got, err := s.ask("udp", name); err != nil || got != want {
			t.Errorf("%s: %s, %v: want %s", name, got, err, want)
		}
	}
	check("a.example", "192.0.2.1")
	check("a.other.example", "SERVFAIL")
	if !strings.Contains(s.log(), "the server refused the client certificate") {
		t.Errorf("the log does not give the reason:\n%s", s.log())
	}
	reload := func() {
		t.Helper()
		if _, stderr, status := call(t, "reload", "--control", s.control); status != 0 {
			t.Fatalf("status %d, %q", status, stderr)
		}
	}
	// The same files with other contents: the stranger becomes a member, and vice versa.
	issue(clients, "stranger")
	issue(strangers, "member")
	check("b.example", "192.0.2.1") // until the reload
	reload()
	check("b.other.example", "192.0.2.1")
	check("c.example", "SERVFAIL")
	// A file that does not match changes nothing.
	e2e.WriteFile(t, path("stranger.key"), "no key\n")
	if _, stderr, status := call(t, "reload", "--control", s.control); status != exitFailure || !strings.Contains(stderr, "client-key") {
		t.Errorf("status %d, %q: want an error about client-key", status, stderr)
	}
	check("c.other.example", "192.0.2.1")
}

// must returns v, and panics on an error.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
