// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
)

// TestHTTPS: a group asks servers over both versions of HTTP and over TLS, and a server
// whose responses have no DNS message is asked after the others.
func TestHTTPS(t *testing.T) {
	for _, p := range []transport.Protocol{transport.DoH, transport.DoH3} {
		t.Run(p.String(), func(t *testing.T) {
			var broken atomic.Bool
			web := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
				w.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
					if broken.Load() {
						w.WriteHeader(http.StatusBadGateway)
					}
					return broken.Load()
				}
			})
			other := servertest.Serve(t, servertest.Zone(t), nil)
			g := groupOf(t, Config{Servers: []Server{web.Server(p), {Addr: other.Addr(), Name: servertest.Name}}})
			servertest.MustAsk(t, g, "a.example.")
			if n := other.Stats().Queries(); n != 0 {
				t.Errorf("%d queries to the second server", n)
			}
			broken.Store(true)
			for range 5 {
				servertest.MustAsk(t, g, "b.example.")
			}
			st := g.Stats().Servers[0]
			if n := other.Stats().Queries(); n != 5 || st.Backoff == 0 || !strings.Contains(st.LastError, "HTTP status 502") {
				t.Errorf("%d of 5 queries to the second server, stats %+v", n, st)
			}
		})
	}
}

// TestBrokenName: a name for which a server replies with an error of HTTP, while it answers
// others, does not back the server off.
func TestBrokenName(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	web := servertest.ServeWeb(t, transport.DoH, servertest.Zone(t), func(w *servertest.Web) {
		w.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			q, _ := servertest.ReadQuery(r)
			r.Body = io.NopCloser(bytes.NewReader(q))
			if bytes.Contains(q, []byte("\x06broken")) {
				close(arrived)
				<-release
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
			return false
		}
	})
	g := groupOf(t, Config{Servers: []Server{web.Server(transport.DoH)}})
	failed := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, g, "broken.example.")
		failed <- err
	}()
	<-arrived
	servertest.MustAsk(t, g, "good.example.")
	close(release)
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "HTTP status 500") {
		t.Errorf("the broken name: %v", err)
	}
	if st := g.Stats().Servers[0]; st.Backoff != 0 || st.LastError != "" {
		t.Errorf("stats %+v: the server was backed off", st)
	}
}

// TestConfigHTTPS covers what is refused.
func TestConfigHTTPS(t *testing.T) {
	through, err := proxy.Parse("socks5://127.0.0.1:1080")
	if err != nil {
		t.Fatal(err)
	}
	loopbackPort := netip.AddrPortFrom(servertest.Loopback, 443)
	for want, cfg := range map[string]Config{
		"uses QUIC, which the proxy socks5://127.0.0.1:1080 does not carry: use tls:// or https://": {Proxy: through, Servers: []Server{{Protocol: transport.DoH3, Addr: loopbackPort}}},
		"quic://127.0.0.1:443 uses QUIC, which the proxy": {
			Proxy: through, Servers: []Server{{Name: "dns.example", Addr: netip.AddrPortFrom(netip.Addr{}, 853)}}, Bootstrap: []Server{{Protocol: transport.DoQ, Addr: loopbackPort}},
		},
		"h3://127.0.0.1 uses QUIC, which the proxy": {
			Proxy: through, Servers: []Server{{Addr: loopbackPort}}, Bootstrap: []Server{{Protocol: transport.DoH3, Addr: loopbackPort}},
		},
		"is not the path of a URL":        {Servers: []Server{{Protocol: transport.DoH, Addr: loopbackPort, Path: "dns-query"}}},
		"has no path and no authority":    {Servers: []Server{{Addr: loopbackPort, Path: "/dns-query"}}},
		`"/a{?b}" is not the path`:        {Servers: []Server{{Protocol: transport.DoH, Addr: loopbackPort, Path: "/a{?b}"}}},
		`"/a#b" is not the path of a URL`: {Servers: []Server{{Protocol: transport.DoH3, Addr: loopbackPort, Path: "/a#b"}}},
	} {
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
