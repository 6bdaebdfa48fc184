// SPDX-License-Identifier: Apache-2.0

package doh_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

// TestProxy: connections go through the proxy, which receives the server's address, and
// only the socket to the proxy is made.
func TestProxy(t *testing.T) {
	for _, scheme := range []string{"socks5", "http"} {
		for _, p := range []transport.Protocol{transport.DoT, transport.DoH} {
			through := servertest.NewProxy(t)
			create, at := newDoT, netip.AddrPort{}
			if p == transport.DoH {
				s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
				create, at = protocols[p], s.Addr
			} else {
				at = dotServer(t).Addr()
			}
			parsed, err := proxy.Parse(scheme + "://user:pass@" + through.Addr.String())
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var sockets []string
			cl := servertest.NewClient(t, transport.Config{
				Server: transport.Server{Protocol: p, Addr: at, Name: servertest.Name}, Proxy: parsed,
				Control: func(_, address string, _ syscall.RawConn) error {
					mu.Lock()
					defer mu.Unlock()
					sockets = append(sockets, address)
					return nil
				},
			}, create)
			servertest.MustAsk(t, cl, "www.example.")
			cl.T.Reset()
			servertest.MustAsk(t, cl, "www.example.")
			targets := through.Targets()
			if len(targets) != 2 || targets[0] != at.String() || through.Carried.Load() != 2 {
				t.Errorf("%s, %s: the proxy was asked for %v: want %s twice", scheme, p, targets, at)
			}
			mu.Lock()
			if len(sockets) != 2 || sockets[0] != through.Addr.String() {
				t.Errorf("%s, %s: sockets to %v: want two to the proxy", scheme, p, sockets)
			}
			mu.Unlock()
			if st := cl.T.Stats(); st.Resumed != 1 || st.KeyExchange != "X25519MLKEM768" {
				t.Errorf("%s, %s: stats %+v", scheme, p, st)
			}
		}
	}
}

// TestProxyFails: errors name the proxy, and a proxy that is silent does not exceed the time.
func TestProxyFails(t *testing.T) {
	through := servertest.NewProxy(t)
	server := dotServer(t)
	closed, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone := servertest.AddrOf(closed.Addr())
	for _, tc := range []struct {
		proxy string
		to    netip.AddrPort
		want  string
	}{
		{"socks5://user:wrong@" + through.Addr.String(), server.Addr(), "the proxy socks5://" + through.Addr.String() + ": "},
		{"socks5://" + through.Addr.String(), server.Addr(), "no acceptable authentication methods"},
		{"socks5://user:pass@" + through.Addr.String(), gone, "connection refused"},
		{"http://user:wrong@" + through.Addr.String(), server.Addr(), "HTTP status 407 Proxy Authentication Required"},
		{"http://user:pass@" + through.Addr.String(), gone, "it does not connect to " + gone.String() + ": HTTP status 502"},
		{"http://" + gone.String(), server.Addr(), "connection refused"},
		{"socks5://" + silent.Addr().String(), server.Addr(), "no answer within"},
		{"http://" + silent.Addr().String(), server.Addr(), "no answer within"},
	} {
		parsed, err := proxy.Parse(tc.proxy)
		if err != nil {
			t.Fatal(err)
		}
		cl := servertest.NewClient(t, transport.Config{
			Server: transport.Server{Addr: tc.to, Name: servertest.Name}, Proxy: parsed, DialTimeout: 500 * time.Millisecond,
		}, newDoT)
		_, err = servertest.Ask(t, cl, "www.example.")
		code := wire.EDENetworkError
		if tc.want == "no answer within" {
			code = wire.EDENoReachableAuthority
		}
		servertest.WantEDE(t, err, code, tc.want)
	}
	if n := server.Stats().Queries(); n != 0 {
		t.Errorf("%d queries past the proxy", n)
	}
}
