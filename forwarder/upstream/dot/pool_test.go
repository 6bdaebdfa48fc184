// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestCloseIdle: unused connections are closed, a second one sooner than the last.
func TestCloseIdle(t *testing.T) {
	release := make(chan struct{})
	s := servertest.Serve(t, dnstest.Hold(release, servertest.Zone(t)), nil)
	cl := newClient(t, s)
	var wg sync.WaitGroup
	for range 2 * conns.BusyLoad {
		wg.Go(func() { _, _ = servertest.Ask(t, cl, "www.example.") })
	}
	servertest.Eventually(t, "two connections are open", func() bool { return cl.stats().Conns == 2 })
	closeIdle := func(after time.Duration) { cl.pool.Maintain(t.Context(), time.Now().Add(after), false) }
	closeIdle(time.Hour)
	if n := cl.stats().Conns; n == 0 {
		t.Error("a connection with queries in flight was closed")
	}
	close(release)
	wg.Wait()
	closeIdle(conns.ExtraIdle + time.Second)
	if n := cl.stats().Conns; n != 1 {
		t.Errorf("%d connections after a while, want 1", n)
	}
	closeIdle(warmTime + time.Second)
	if n := cl.stats().Conns; n != 0 {
		t.Errorf("%d connections after a long while, want none", n)
	}
	servertest.MustAsk(t, cl, "www.example.")
}

// TestMaxConns: the number of sockets is limited, however many queries are sent at once.
func TestMaxConns(t *testing.T) {
	var sockets atomic.Int32
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := clientOf(t, transport.Config{
		Server: transport.Server{Addr: s.Addr(), Name: servertest.Name},
		Control: func(network, address string, c syscall.RawConn) error {
			if network != "tcp4" || address != s.Addr().String() {
				t.Errorf("control of %s %s", network, address)
			}
			sockets.Add(1)
			return nil
		},
	})
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() { _, _ = servertest.Ask(t, cl, "delay-20.example.") })
	}
	wg.Wait()
	if n := sockets.Load(); n < 1 || n > 2 {
		t.Errorf("%d sockets, want at most 2", n)
	}
}

func TestControlRefuses(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	refusal := errors.New("refused by the control function")
	cl := clientOf(t, transport.Config{
		Server:  transport.Server{Addr: s.Addr(), Name: servertest.Name},
		Control: func(string, string, syscall.RawConn) error { return refusal },
	})
	_, err := servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, refusal.Error())
	if !errors.Is(err, refusal) {
		t.Errorf("the cause is lost in %v", err)
	}
	if n := s.Stats().Conns; n != 0 {
		t.Errorf("%d connections although the control function refused", n)
	}
}
