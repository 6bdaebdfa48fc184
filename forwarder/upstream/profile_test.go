// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

func TestParseProfile(t *testing.T) {
	for in, want := range map[string]Profile{"": Strict, "strict": Strict, "opportunistic": Opportunistic} {
		if p, err := ParseProfile(in); err != nil || p != want {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
	for _, p := range []Profile{Strict, Opportunistic} {
		if again, err := ParseProfile(p.String()); err != nil || again != p {
			t.Errorf("%v does not come back: %v", p, err)
		}
	}
	for _, in := range []string{"Strict", "off", "plain", " strict"} {
		if _, err := ParseProfile(in); err == nil || !strings.Contains(err.Error(), "want strict or opportunistic") {
			t.Errorf("%q: %v", in, err)
		}
	}
	if s := Profile(7).String(); s != "Profile(7)" {
		t.Errorf("%q", s)
	}
}

// TestOpportunistic: whatever is wrong with the certificate, the server answers, and
// it is told.
func TestOpportunistic(t *testing.T) {
	stranger, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for what, opts := range map[string]dnstest.CertOptions{
		"another name": {Names: []string{"other.example"}},
		"expired":      {Names: []string{testName}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)},
		"":             {Names: []string{testName}},
	} {
		s := serve(t, zone(t), func(c *dnstest.Config) { c.Certificate = issue(t, opts) })
		cfg := Config{Servers: []Server{{Addr: s.Addr(), Name: testName}}, Profile: Opportunistic}
		g := groupOf(t, cfg)
		mustAsk(t, g, "www.example.")
		st := g.Stats().Servers[0]
		if (st.Unauthenticated == "") != (what == "") {
			t.Errorf("%q: the stats say %q", what, st.Unauthenticated)
		}
		cfg.RootCAs = stranger.Pool()
		g = groupOf(t, cfg)
		mustAsk(t, g, "www.example.")
		if st := g.Stats().Servers[0]; st.Unauthenticated == "" {
			t.Errorf("%q, of an unknown CA: the stats say nothing", what)
		}
	}
}

// TestOpportunisticIsTold: the log has one warning for a reason, another one for
// another reason, and says when it is over. Each connection is a full handshake until
// then, so that it is noticed.
func TestOpportunisticIsTold(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) { opportunisticIsTold(t, version) })
	}
}

func opportunisticIsTold(t *testing.T, version uint16) {
	var out lockedBuffer
	s := serve(t, zone(t), func(c *dnstest.Config) {
		c.Certificate, c.MaxVersion = issue(t, dnstest.CertOptions{Names: []string{"other.example"}}), version
	})
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: testName}}, Profile: Opportunistic,
		Log: slog.New(slog.NewTextHandler(&out, nil)),
	})
	again := func(warnings, infos int) {
		t.Helper()
		for range 3 {
			s.EndConns(dnstest.Close)
			eventually(t, "the connection ends", func() bool { return g.Stats().Servers[0].Conns == 0 })
			mustAsk(t, g, "www.example.")
		}
		if w, i := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=INFO"); w != warnings || i != infos {
			t.Errorf("%d warnings and %d other lines, want %d and %d:\n%s", w, i, warnings, infos, out.String())
		}
	}
	again(1, 0)
	if !strings.Contains(out.String(), "its certificate is for other.example, not for dot.example") {
		t.Errorf("the log has no reason: %s", out.String())
	}
	s.SetCertificate(issue(t, dnstest.CertOptions{Names: []string{"third.example"}}))
	again(2, 0)
	if n := s.Stats().Resumed; n != 0 {
		t.Errorf("%d sessions were resumed with a server that is not authenticated", n)
	}
	s.SetCertificate(issue(t, dnstest.CertOptions{}))
	again(2, 1)
	if st := g.Stats().Servers[0]; st.Unauthenticated != "" {
		t.Errorf("the stats still say %q", st.Unauthenticated)
	}
	if n := s.Stats().Resumed; n != 2 {
		t.Errorf("%d sessions were resumed with the server now authenticated, want 2 of 3", n)
	}
}

// TestOpportunisticPins: a pin is binding whatever the profile.
func TestOpportunisticPins(t *testing.T) {
	s := serve(t, zone(t), nil)
	for _, name := range []string{testName, ""} {
		g := groupOf(t, Config{
			Servers: []Server{{Addr: s.Addr(), Name: name, Pins: []Pin{{1}}}}, Profile: Opportunistic,
		})
		_, err := ask(t, g, "www.example.")
		wantEDE(t, err, wire.EDENetworkError, "its key is not the one that was pinned")
	}
	if n := s.Stats().Queries(); n != 0 {
		t.Errorf("%d queries reached a server without the pinned key", n)
	}
}

// TestOpportunisticIsNeverPlain: what does not speak TLS gets no query.
func TestOpportunisticIsNeverPlain(t *testing.T) {
	tcp, udp, err := dnstest.ListenPlain(netip.AddrPortFrom(loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	s, err := dnstest.New(dnstest.Config{Handler: zone(t), TCP: []net.Listener{tcp}, UDP: []net.PacketConn{udp}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context()) }()
	cfg := hasty()
	cfg.Profile, cfg.Servers = Opportunistic, []Server{{Addr: s.Addr(), Name: testName}}
	if _, err := ask(t, groupOf(t, cfg), "www.example."); err == nil {
		t.Error("an answer without TLS")
	}
	if n := s.Stats().Queries(); n != 0 {
		t.Errorf("%d queries in the clear", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
