// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// racers returns one server with the addresses of several.
func racers(servers ...*dnstest.Server) transport.Server {
	s := transport.Server{Addr: servers[0].Addr(), Name: servertest.Name}
	for _, other := range servers[1:] {
		s.Also = append(s.Also, other.Addr())
	}
	return s
}

// hung accepts connections and does nothing with them, until the test ends.
func hung(t *testing.T, count *atomic.Int32) *dnstest.Server {
	return servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
		c.Accept = func(nc net.Conn) bool {
			count.Add(1)
			t.Cleanup(func() { nc.Close() })
			return false
		}
	})
}

// TestRaceSilent: an address that accepts connections and stays silent delays the first query
// by one attempt delay and later ones not at all; its attempt is canceled.
func TestRaceSilent(t *testing.T) {
	closed := make(chan error, 1)
	silent := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
		c.Accept = func(nc net.Conn) bool {
			go func() {
				buf := make([]byte, 4096)
				for {
					if _, err := nc.Read(buf); err != nil {
						nc.Close()
						closed <- err
						return
					}
				}
			}()
			return false
		}
	})
	good := servertest.Serve(t, servertest.Zone(t), nil)
	cl := clientOf(t, transport.Config{Server: racers(silent, good)})
	servertest.MustAsk(t, cl, "www.example.")
	<-closed // although no query waited for it
	good.EndConns(dnstest.Close)
	servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })
	servertest.MustAsk(t, cl, "www.example.")
	st := cl.stats()
	if st.Dials != 3 || st.DialErrors != 0 || st.Conns != 1 || st.Failed != 0 || st.Resumed != 1 {
		t.Errorf("stats %+v, want three dials, one of them canceled, and one session resumed", st)
	}
	if n := silent.Stats().Conns; n != 1 {
		t.Errorf("%d connections to the silent address, want only the first", n)
	}
}

// TestRaceFailed: after an address that refuses connections, or whose server is not trusted,
// the next one is tried at once.
func TestRaceFailed(t *testing.T) {
	other := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
		c.Certificate = servertest.Issue(t, dnstest.CertOptions{Names: []string{"other.example"}})
	})
	good := servertest.Serve(t, servertest.Zone(t), nil)
	l, err := dnstest.Listen(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := racers(other, good)
	s.Also = append([]netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}, s.Also...)
	cl := clientOf(t, transport.Config{Server: s})
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Dials != 3 || st.DialErrors != 2 || st.LastError != "" {
		t.Errorf("stats %+v, want three dials, two of them failed, and no error of the server", st)
	}
	if n := other.Stats().Queries(); n != 0 {
		t.Errorf("%d queries to a server that is not trusted", n)
	}
}

// TestRaceAllFail: the error is the first one that is not a missing route, and names the
// address.
func TestRaceAllFail(t *testing.T) {
	l, err := dnstest.Listen(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	refusing := netip.MustParseAddrPort(l.Addr().String())
	unreachable := netip.MustParseAddrPort("[2001:db8::1]:853")
	s := transport.Server{Addr: refusing, Also: []netip.AddrPort{unreachable}, Name: servertest.Name}
	cl := clientOf(t, transport.Config{Server: s, Control: func(_, address string, _ syscall.RawConn) error {
		if address == unreachable.String() {
			return syscall.ENETUNREACH
		}
		return nil
	}})
	_, err = servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, s.String()+": connection refused: nothing listens on TCP port ", "there (127.0.0.1)")
	if st := cl.stats(); st.Dials != st.DialErrors || st.Dials < 2 {
		t.Errorf("stats %+v, want each dial to fail", st)
	}
	s.Addr = netip.MustParseAddrPort("192.0.2.1:853")
	cl = clientOf(t, transport.Config{Server: s, Control: func(string, string, syscall.RawConn) error { return syscall.ENETUNREACH }})
	_, err = servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "no route to it from this machine (2001:db8::1)")
}

// TestRaceTimeout: if every address is silent, the timeout is not exceeded, and no goroutine
// is left.
func TestRaceTimeout(t *testing.T) {
	var accepted atomic.Int32
	cl := newUnclosed(transport.Config{
		Server: racers(hung(t, &accepted), hung(t, &accepted), hung(t, &accepted)), DialTimeout: time.Second,
	})
	cl.wait = time.Second
	_, err := servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENoReachableAuthority, "no answer within ")
	if n := accepted.Load(); n < 2 {
		t.Errorf("%d addresses were tried", n)
	}
	cl.pool.Close()
	if left := servertest.Goroutines(); left != "" {
		t.Errorf("goroutines are still running:\n%s", left)
	}
}

// TestRaceClose: closing cancels a race in progress.
func TestRaceClose(t *testing.T) {
	var accepted atomic.Int32
	cl := newUnclosed(transport.Config{Server: racers(hung(t, &accepted), hung(t, &accepted))})
	done := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, cl, "www.example.")
		done <- err
	}()
	servertest.Eventually(t, "both are tried", func() bool { return accepted.Load() >= 2 })
	cl.pool.Close()
	servertest.WantEDE(t, <-done, wire.EDEOther, "the upstream group is closed")
	if left := servertest.Goroutines(); left != "" {
		t.Errorf("goroutines are still running:\n%s", left)
	}
}

// TestRaceNewNetwork: the address that worked last is forgotten when the network changes.
func TestRaceNewNetwork(t *testing.T) {
	first, second := servertest.Serve(t, servertest.Zone(t), nil), servertest.Serve(t, servertest.Zone(t), nil)
	var dials atomic.Int32
	cl := clientOf(t, transport.Config{Server: racers(first, second), Control: func(string, string, syscall.RawConn) error {
		if dials.Add(1) == 1 {
			return syscall.ECONNREFUSED
		}
		return nil
	}})
	servertest.MustAsk(t, cl, "www.example.")
	second.EndConns(dnstest.Close)
	servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })
	servertest.MustAsk(t, cl, "www.example.")
	if first.Stats().Conns != 0 || second.Stats().Conns != 2 {
		t.Error("the address that worked last is not the first one tried")
	}
	cl.pool.Reset()
	servertest.MustAsk(t, cl, "www.example.")
	if first.Stats().Conns != 1 {
		t.Error("the order is not the configured one after the network changed")
	}
}

// TestRaceFamilies is the usual case: one address of each family.
func TestRaceFamilies(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("skipped: no IPv6 loopback here: %v", err)
	}
	l.Close()
	six := servertest.ServeAt(t, netip.MustParseAddrPort("[::1]:0"), servertest.Zone(t), nil)
	four := servertest.Serve(t, servertest.Zone(t), nil)
	cl := clientOf(t, transport.Config{Server: racers(four, six)})
	servertest.MustAsk(t, cl, "www.example.")
	if six.Stats().Conns != 1 || four.Stats().Conns != 0 {
		t.Errorf("%d connections over IPv6, %d over IPv4, want the first alone", six.Stats().Conns, four.Stats().Conns)
	}
}

// TestRaceByAddress: without a name each address is looked for in the certificate
// that is shown there, and a session of one is not offered to the other.
func TestRaceByAddress(t *testing.T) {
	elsewhere := netip.MustParseAddr("127.0.0.2")
	only := func(ip netip.Addr) func(*dnstest.Config) {
		return func(c *dnstest.Config) {
			c.Certificate = servertest.Issue(t, dnstest.CertOptions{IPs: []netip.Addr{ip}})
		}
	}
	wrong := servertest.Serve(t, servertest.Zone(t), only(elsewhere))
	right := servertest.ServeAt(t, netip.AddrPortFrom(elsewhere, 0), servertest.Zone(t), only(elsewhere))
	s := racers(wrong, right)
	s.Name = ""
	cl := clientOf(t, transport.Config{Server: s})
	servertest.MustAsk(t, cl, "www.example.")
	if wrong.Stats().Queries() != 0 || right.Stats().Queries() != 1 {
		t.Error("a certificate for another address was accepted")
	}
}
