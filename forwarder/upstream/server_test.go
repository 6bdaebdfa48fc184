// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/x509"
	"net/netip"
	"testing"

	"sotto/forwarder/upstream/servertest"
)

func TestNewChecks(t *testing.T) {
	s := Server{Addr: netip.MustParseAddrPort("192.0.2.1:853"), Name: servertest.Name}
	also := s
	also.Also = []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:853")}
	for what, cfg := range map[string]Config{
		"no servers":    {},
		"shared by two": {Servers: []Server{s, also}},
		"itself, too":   {Servers: []Server{{Addr: s.Addr, Also: []netip.AddrPort{s.Addr}, Name: servertest.Name}}},
		"no port, also": {Servers: []Server{{Addr: s.Addr, Also: []netip.AddrPort{{}}, Name: servertest.Name}}},
		"no profile":    {Servers: []Server{s}, Profile: 9},
		"no port":       {Servers: []Server{{Addr: netip.AddrPortFrom(servertest.Loopback, 0)}}},
		"a bad name":    {Servers: []Server{{Addr: s.Addr, Name: "192.0.2.1"}}},
		"one twice":     {Servers: []Server{s, s}},
		"negative":      {Servers: []Server{s}, MaxConns: -1},
		"too many":      {Servers: []Server{s}, MaxInflight: 1 << 16},
		"negative time": {Servers: []Server{s}, Timeout: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	pinned := s
	pinned.Pins = []Pin{{1}}
	g, err := New(Config{Servers: []Server{s, pinned}, RootCAs: x509.NewCertPool})
	if err != nil {
		t.Fatalf("one address, with and without a pin: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}
