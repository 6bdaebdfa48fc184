// SPDX-License-Identifier: Apache-2.0

package doh_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/dot"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestHybrid: the key exchange is X25519MLKEM768, or what the server supports.
func TestHybrid(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		for _, tc := range []struct {
			groups []tls.CurveID
			want   string
		}{
			{nil, "X25519MLKEM768"},
			{[]tls.CurveID{tls.X25519}, "X25519"},
			{[]tls.CurveID{tls.CurveP256}, "CurveP256"},
		} {
			s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
				w.TLS = func(c *tls.Config) { c.CurvePreferences = tc.groups }
			})
			cl := newClient(t, s, p, "")
			servertest.MustAsk(t, cl, "www.example.")
			if st := cl.T.Stats(); st.KeyExchange != tc.want || st.Dials != 1 || st.Protocol != "TLS 1.3" {
				t.Errorf("stats %+v: want %s in one attempt", st, tc.want)
			}
		}
	})
}

// dotServer returns the address of a DNS-over-TLS server.
func dotServer(t *testing.T) *dnstest.Server { return servertest.Serve(t, servertest.Zone(t), nil) }

func newDoT(cfg transport.Config) (transport.Transport, error) { return dot.New(cfg), nil }

// TestMiddlebox: where a long ClientHello is reset, answered with the end of the stream, or
// dropped, the handshake is repeated with a short one, and later ones are short at once.
func TestMiddlebox(t *testing.T) {
	for _, how := range []servertest.Interference{servertest.ResetIt, servertest.EndIt, servertest.DropIt} {
		for name, protocol := range map[string]transport.Protocol{"DoT": transport.DoT, "DoH": transport.DoH} {
			t.Run(name+" "+how.String(), func(t *testing.T) {
				t.Parallel()
				create, at := newDoT, dotServer(t).Addr()
				if protocol == transport.DoH {
					create, at = protocols[protocol], servertest.ServeWeb(t, protocol, servertest.Zone(t), nil).Addr
				}
				var long, short atomic.Int64
				relay := servertest.NewRelay(t, "TCP", at)
				relay.Set(func(hello []byte) servertest.Interference {
					if len(hello) <= 1000 {
						short.Add(1)
						return servertest.PassIt
					}
					long.Add(1)
					return how
				})
				timeout := 9 * time.Second
				if how == servertest.DropIt { // two fifths of it pass
					timeout = 5 * time.Second
				}
				cl := servertest.NewClient(t, transport.Config{
					Server: transport.Server{Protocol: protocol, Addr: relay.Addr, Name: servertest.Name}, DialTimeout: timeout,
				}, create)
				cl.Wait = timeout
				servertest.MustAsk(t, cl, "www.example.")
				cl.T.Reset()
				if long.Load() != 1 || short.Load() != 1 {
					t.Errorf("%d long and %d short handshakes: want one of each", long.Load(), short.Load())
				}
				relay.Set(func([]byte) servertest.Interference { return servertest.PassIt })
				servertest.MustAsk(t, cl, "www.example.")
				if st := cl.T.Stats(); st.KeyExchange != "X25519MLKEM768" || st.DialErrors != 0 {
					t.Errorf("stats %+v: want the post-quantum key exchange after the network changed", st)
				}
			})
		}
	}
}

// TestMiddleboxRemembered: a path that drops long handshakes is asked with short ones at once.
func TestMiddleboxRemembered(t *testing.T) {
	var long atomic.Int64
	s := dotServer(t)
	relay := servertest.NewRelay(t, "TCP", s.Addr())
	relay.Set(func(hello []byte) servertest.Interference {
		if len(hello) > 1000 {
			long.Add(1)
			return servertest.ResetIt
		}
		return servertest.PassIt
	})
	cl := servertest.NewClient(t, transport.Config{Server: transport.Server{Addr: relay.Addr, Name: servertest.Name}}, newDoT)
	for range 3 {
		servertest.MustAsk(t, cl, "www.example.")
		s.EndConns(dnstest.Close)
		servertest.Eventually(t, "the connection closes", func() bool { return cl.T.Stats().Conns == 0 })
	}
	if st := cl.T.Stats(); long.Load() != 1 || st.Dials != 4 || st.DialErrors != 0 || st.KeyExchange != "X25519" {
		t.Errorf("stats %+v, %d long handshakes: want only the first", st, long.Load())
	}
}

// TestKnownKeyExchange: only the first handshake with a server that does not support X25519MLKEM768 offers it. The next ones are
// short, and begin with the group that the server chose.
func TestKnownKeyExchange(t *testing.T) {
	for _, group := range []tls.CurveID{tls.X25519, tls.CurveP256, tls.X25519MLKEM768} {
		t.Run(group.String(), func(t *testing.T) {
			s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.Groups = []tls.CurveID{group} })
			relay := servertest.NewRelay(t, "TCP", s.Addr())
			var long atomic.Int64
			relay.Set(func(hello []byte) servertest.Interference {
				if len(hello) > 1000 {
					long.Add(1)
				}
				return servertest.PassIt
			})
			cl := servertest.NewClient(t, transport.Config{Server: transport.Server{Addr: relay.Addr, Name: servertest.Name}}, newDoT)
			const dials = 3
			for range dials {
				servertest.MustAsk(t, cl, "www.example.")
				s.EndConns(dnstest.Close)
				servertest.Eventually(t, "the connection closes", func() bool { return cl.T.Stats().Conns == 0 })
			}
			want := int64(1)
			if group == tls.X25519MLKEM768 {
				want = dials
			}
			if st := cl.T.Stats(); long.Load() != want || st.Dials != dials || st.Resumed != dials-1 || st.DialErrors != 0 || st.KeyExchange != group.String() {
				t.Errorf("stats %+v, %d long handshakes: want %d", st, long.Load(), want)
			}
		})
	}
}

// TestMiddleboxQUIC: where the first flight of QUIC is dropped if it has two packets, it is
// sent again as one.
func TestMiddleboxQUIC(t *testing.T) {
	s := servertest.ServeWeb(t, transport.DoH3, servertest.Zone(t), nil)
	relay := servertest.NewRelay(t, "UDP", s.Addr)
	relay.DropLong()
	cl := servertest.NewClient(t, transport.Config{
		Server: transport.Server{Protocol: transport.DoH3, Addr: relay.Addr, Name: servertest.Name}, DialTimeout: 5 * time.Second,
	}, protocols[transport.DoH3])
	cl.Wait = 5 * time.Second
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.T.Stats(); st.KeyExchange != "X25519" || st.Dials != 2 || st.DialErrors != 0 {
		t.Errorf("stats %+v: want a second handshake without X25519MLKEM768", st)
	}
}

// TestNotAMiddlebox: a server that answers the ClientHello with an alert, or cannot be
// reached, is not asked again.
func TestNotAMiddlebox(t *testing.T) {
	old := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for what, s := range map[string]transport.Server{
		"an alert": {Addr: old.Addr(), Name: servertest.Name},
		"refused":  {Addr: servertest.AddrOf(l.Addr()), Name: servertest.Name},
	} {
		cl := servertest.NewClient(t, transport.Config{Server: s}, newDoT)
		if _, err := servertest.Ask(t, cl, "www.example."); err == nil {
			t.Errorf("%s: no error", what)
		}
		if st := cl.T.Stats(); st.Dials != 1 {
			t.Errorf("%s: %d attempts", what, st.Dials)
		}
	}
}
