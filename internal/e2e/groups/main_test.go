// SPDX-License-Identifier: Apache-2.0

package groups

import (
	"net"
	"net/netip"
	"testing"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// Addresses of the second way out of the host.
const (
	otherIf   = "eth1"
	otherHost = "10.78.0.2"
	other     = "10.78.0.1"

	otherHost6 = "fd78::2"
	other6     = "fd78::1"
)

// world is a host with two links: to the LAN, and to another network with servers of its own.
type world struct {
	*e2e.World
	other *netlab.Host
}

// newWorld makes a world. The other network has these addresses; routes to them lead there if
// routed is set.
func newWorld(t *testing.T, routed bool, addrs ...string) world {
	t.Helper()
	w := world{World: e2e.New(t)}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.other, err = w.Lab.Host("other")
	check(err)
	check(w.Lab.Wire(w.Host, otherIf, w.other, netlab.LANIf))
	check(w.Host.Addr(otherIf, otherHost+"/24", otherHost6+"/64"))
	check(w.other.Addr(netlab.LANIf, other+"/24", other6+"/64"))
	for _, text := range addrs {
		a, via := netip.MustParseAddr(text), other
		if a.Is6() {
			via = other6
		}
		p := netip.PrefixFrom(a, a.BitLen()).String()
		check(w.other.Addr("lo", p))
		if routed {
			check(w.Host.Route(p, via))
		}
	}
	return w
}

// serveTLS serves DNS over TLS in the other network, with a certificate for names and addresses,
// and one address as the answer for every name.
func (w world) serveTLS(at, answer string, opts dnstest.CertOptions) *dnstest.Server {
	w.T.Helper()
	cert, err := w.CA.Issue(opts)
	if err != nil {
		w.T.Fatal(err)
	}
	cfg := dnstest.Config{Handler: w.Zone(answer, e2e.Sealed6), Certificate: cert, LogQueries: 1000}
	err = w.other.Do(func() error {
		l, err := dnstest.Listen(netip.MustParseAddrPort(at))
		cfg.TLS = []net.Listener{l}
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return e2e.Serve(w.T, cfg)
}
