// SPDX-License-Identifier: Apache-2.0

package doh_test

import (
	"crypto/tls"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestTrust: a server that is not authenticated gets no query, whatever the protocol.
func TestTrust(t *testing.T) {
	stranger, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, p transport.Protocol) {
		for _, tc := range []struct {
			what   string
			change func(*transport.Config)
			want   string // "" if it is trusted
		}{
			{"name", func(*transport.Config) {}, ""},
			{"address", func(c *transport.Config) { c.Server.Name = "" }, ""},
			{"another name", func(c *transport.Config) { c.Server.Name = "other.example" }, "not for other.example"},
			{"unknown CA", func(c *transport.Config) { c.RootCAs = stranger.Pool }, "an untrusted CA"},
			{"wrong pin", func(c *transport.Config) { c.Server.Pins = []transport.Pin{{1}} }, "its key does not match the pin"},
			{"opportunistic", func(c *transport.Config) { c.RootCAs, c.Profile = stranger.Pool, transport.Opportunistic }, ""},
		} {
			s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
			cfg := transport.Config{Server: s.Server(p)}
			tc.change(&cfg)
			cl := servertest.NewClient(t, cfg, protocols[p])
			_, err := servertest.Ask(t, cl, "www.example.")
			if tc.want == "" {
				if err != nil {
					t.Errorf("%s: %v", tc.what, err)
				}
				if got := cl.T.Stats().Unauthenticated != ""; got != (cfg.Profile == transport.Opportunistic) {
					t.Errorf("%s: unauthenticated: %v", tc.what, got)
				}
				continue
			}
			servertest.WantEDE(t, err, wire.EDENetworkError, tc.want)
			if n := s.Requests.Load(); n != 0 {
				t.Errorf("%s: %d requests to a server that is not trusted", tc.what, n)
			}
		}
	})
}

// TestClientCertificate: a server that requires a certificate gets it. Without one the error
// says so, although TLS 1.3 reports it after the handshake, and counts as a failed dial.
func TestClientCertificate(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, servertest.Zone(t), func(w *servertest.Web) {
			w.TLS = func(c *tls.Config) {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, servertest.CA().Pool()
			}
		})
		cl := newClient(t, s, p, "")
		_, err := servertest.Ask(t, cl, "www.example.")
		servertest.WantEDE(t, err, wire.EDENetworkError, "the server requires a client certificate: configure client-cert and client-key")
		servertest.Eventually(t, "the failure is reported", func() bool { return cl.DialFailures.Load() > 0 })

		unused := newClient(t, s, p, "") // refused before it has a query
		unused.T.Maintain(t.Context(), time.Now(), true)
		servertest.Eventually(t, "the refusal is reported", func() bool { return unused.DialFailures.Load() > 0 })

		cert := servertest.Issue(t, dnstest.CertOptions{Names: []string{"client.example"}, Client: true})
		cl = servertest.NewClient(t, transport.Config{Server: s.Server(p), ClientCert: &cert}, protocols[p])
		servertest.MustAsk(t, cl, "www.example.")
		cl.T.Reset()
		servertest.MustAsk(t, cl, "www.example.")
		if st := cl.T.Stats(); st.Resumed != 1 || st.DialErrors != 0 {
			t.Errorf("stats %+v: want two connections, one of them resumed", st)
		}
	})
}
