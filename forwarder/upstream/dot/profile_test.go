// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestOpportunistic: whatever is wrong with the certificate, the server is used, and the
// statistics name the reason.
func TestOpportunistic(t *testing.T) {
	stranger, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for what, opts := range map[string]dnstest.CertOptions{
		"another name": {Names: []string{"other.example"}},
		"expired":      {Names: []string{servertest.Name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)},
		"":             {Names: []string{servertest.Name}},
	} {
		s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = servertest.Issue(t, opts) })
		cfg := transport.Config{Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, Profile: transport.Opportunistic}
		cl := clientOf(t, cfg)
		servertest.MustAsk(t, cl, "www.example.")
		st := cl.stats()
		if (st.Unauthenticated == "") != (what == "") {
			t.Errorf("%q: the reason in the statistics is %q", what, st.Unauthenticated)
		}
		cfg.RootCAs = stranger.Pool
		cl = clientOf(t, cfg)
		servertest.MustAsk(t, cl, "www.example.")
		if st := cl.stats(); st.Unauthenticated == "" {
			t.Errorf("%q, of an unknown CA: no reason in the statistics", what)
		}
	}
}

// TestOpportunisticIsReported: the log has one warning for each reason, and one line when the
// server is authenticated again. Until then each connection uses a full handshake, so that
// this is noticed.
func TestOpportunisticIsReported(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) { opportunisticIsReported(t, version) })
	}
}

func opportunisticIsReported(t *testing.T, version uint16) {
	var out servertest.LogBuffer
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
		c.Certificate, c.MaxVersion = servertest.Issue(t, dnstest.CertOptions{Names: []string{"other.example"}}), version
	})
	cl := clientOf(t, transport.Config{
		Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, Profile: transport.Opportunistic,
		Log: slog.New(slog.NewTextHandler(&out, nil)),
	})
	again := func(warnings, infos int) {
		t.Helper()
		for range 3 {
			s.EndConns(dnstest.Close)
			servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })
			servertest.MustAsk(t, cl, "www.example.")
		}
		if w, i := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=INFO"); w != warnings || i != infos {
			t.Errorf("%d warnings and %d other lines, want %d and %d:\n%s", w, i, warnings, infos, out.String())
		}
	}
	again(1, 0)
	if !strings.Contains(out.String(), "its certificate is for other.example, not for dot.example") {
		t.Errorf("the log does not name the reason: %s", out.String())
	}
	s.SetCertificate(servertest.Issue(t, dnstest.CertOptions{Names: []string{"third.example"}}))
	again(2, 0)
	if n := s.Stats().Resumed; n != 0 {
		t.Errorf("%d sessions were resumed with a server that is not authenticated", n)
	}
	s.SetCertificate(servertest.Issue(t, dnstest.CertOptions{}))
	again(2, 1)
	if st := cl.stats(); st.Unauthenticated != "" {
		t.Errorf("the reason in the statistics is still %q", st.Unauthenticated)
	}
	if n := s.Stats().Resumed; n != 2 {
		t.Errorf("%d sessions were resumed with the server now authenticated, want 2 of 3", n)
	}
}

// TestOpportunisticPins: a pin is required in each profile.
func TestOpportunisticPins(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	for _, name := range []string{servertest.Name, ""} {
		cl := clientOf(t, transport.Config{
			Server: transport.Server{Addr: s.Addr(), Name: name, Pins: []transport.Pin{{1}}}, Profile: transport.Opportunistic,
		})
		_, err := servertest.Ask(t, cl, "www.example.")
		servertest.WantEDE(t, err, wire.EDENetworkError, "its key does not match the pin")
	}
	if n := s.Stats().Queries(); n != 0 {
		t.Errorf("%d queries reached a server without the pinned key", n)
	}
}

// TestOpportunisticIsNeverPlain: a server without TLS gets no query.
func TestOpportunisticIsNeverPlain(t *testing.T) {
	tcp, udp, err := dnstest.ListenPlain(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	s, err := dnstest.New(dnstest.Config{Handler: servertest.Zone(t), TCP: []net.Listener{tcp}, UDP: []net.PacketConn{udp}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context()) }()
	cl := clientOf(t, transport.Config{
		Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, Profile: transport.Opportunistic, SilentTimeout: 900 * time.Millisecond,
	})
	cl.wait = 2 * time.Second
	if _, err := servertest.Ask(t, cl, "www.example."); err == nil {
		t.Error("an answer without TLS")
	}
	if n := s.Stats().Queries(); n != 0 {
		t.Errorf("%d unencrypted queries", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
