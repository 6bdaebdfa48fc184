// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestTrust covers the certificates that are accepted, and the errors for others.
func TestTrust(t *testing.T) {
	byIP := dnstest.CertOptions{IPs: []netip.Addr{servertest.Loopback}}
	byName := dnstest.CertOptions{Names: []string{servertest.Name, "a.example", "b.example", "c.example"}}
	expired := dnstest.CertOptions{Names: []string{servertest.Name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	future := dnstest.CertOptions{Names: []string{servertest.Name}, NotBefore: time.Now().Add(time.Hour)}
	stranger, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []trustCase{
		{what: "by name", cert: byName, name: servertest.Name},
		{what: "by address", cert: byIP},
		{what: "wrong name", cert: byName, name: "dns.other.example", want: "its certificate is for dot.example, a.example, b.example and others, not for dns.other.example"},
		{what: "no name, and a certificate without the address", cert: byName, want: "its certificate is for dot.example, a.example, b.example and others, not for the address: write 127.0.0.1:"},
		{what: "name where the certificate has the address", cert: byIP, name: servertest.Name, want: "its certificate is for 127.0.0.1, not for dot.example"},
		{what: "unknown CA", cert: byName, name: servertest.Name, cas: stranger.Pool, want: "its certificate is from an untrusted CA (Sotto throwaway CA): add the CA with --ca-file"},
		{what: "expired", cert: expired, name: servertest.Name, want: "its certificate expired on " + expired.NotAfter.UTC().Format("2006-01-02")},
		{what: "expired and unknown CA", cert: expired, name: servertest.Name, cas: stranger.Pool, want: "its certificate expired on"},
		{what: "not yet valid", cert: future, name: servertest.Name, want: "is this machine's clock right?"},

		{what: "name and leaf pin", cert: byName, name: servertest.Name, pins: []string{"other", "leaf"}},
		{what: "name and CA pin", cert: byName, name: servertest.Name, pins: []string{"ca"}},
		{what: "name and wrong pin", cert: byName, name: servertest.Name, pins: []string{"other"}, want: "its key does not match the pin: the key has sha256/"},
		{what: "wrong name and leaf pin", cert: byName, name: "dns.other.example", pins: []string{"leaf"}, want: "not for dns.other.example"},
		{what: "unknown CA, name and leaf pin", cert: byName, name: servertest.Name, cas: stranger.Pool, pins: []string{"leaf"}, want: "an untrusted CA"},
		{what: "leaf pin alone", cert: byName, cas: stranger.Pool, pins: []string{"leaf"}},
		{what: "wrong pin alone", cert: byIP, pins: []string{"other"}, want: "its key does not match the pin"},
		{what: "leaf pin alone, expired", cert: expired, pins: []string{"leaf"}, want: "its certificate expired on"},
		{what: "CA pin alone, for the address", cert: byIP, cas: stranger.Pool, pins: []string{"ca"}},
		{what: "CA pin alone, for another server", cert: byName, cas: stranger.Pool, pins: []string{"ca"}, want: "not for the address"},
	} {
		t.Run(tc.what, func(t *testing.T) { tc.run(t, stranger) })
	}
}

// trustCase is a server's certificate and the client's configuration.
type trustCase struct {
	what string
	cert dnstest.CertOptions
	name string
	cas  func() *x509.CertPool // nil: the test's
	pins []string              // "leaf", "ca" or "other"
	want string                // in the EDE; "" if it is trusted
}

func (tc *trustCase) run(t *testing.T, stranger *dnstest.CA) {
	cert := servertest.Issue(t, tc.cert)
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = cert })
	srv := transport.Server{Addr: s.Addr(), Name: tc.name}
	for _, p := range tc.pins {
		srv.Pins = append(srv.Pins, map[string]transport.Pin{
			"leaf": transport.PinOf(cert.Leaf), "ca": transport.PinOf(servertest.CA().Certificate()), "other": transport.PinOf(stranger.Certificate()),
		}[p])
	}
	cl := clientOf(t, transport.Config{Server: srv, RootCAs: tc.cas})
	_, err := servertest.Ask(t, cl, "www.example.")
	if tc.want == "" {
		if err != nil {
			t.Fatalf("not trusted: %v", err)
		}
		return
	}
	servertest.WantEDE(t, err, wire.EDENetworkError, srv.String()+": ", tc.want)
	if n := s.Stats().Queries(); n != 0 {
		t.Errorf("%d queries reached a server that is not trusted", n)
	}
}

// TestCopiedCA: a certificate that matches a pin proves nothing if it did not issue the leaf.
func TestCopiedCA(t *testing.T) {
	impostor, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := impostor.Issue(dnstest.CertOptions{IPs: []netip.Addr{servertest.Loopback}})
	if err != nil {
		t.Fatal(err)
	}
	cert.Certificate = append(cert.Certificate, servertest.CA().Certificate().Raw)
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = cert })
	cl := clientOf(t, transport.Config{Server: transport.Server{Addr: s.Addr(), Pins: []transport.Pin{transport.PinOf(servertest.CA().Certificate())}}})
	_, err = servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "an untrusted CA")
}

// TestClientHello checks what the client sends before the server is authenticated.
func TestClientHello(t *testing.T) {
	for _, tc := range []struct {
		name, sni string
	}{{servertest.Name, servertest.Name}, {"", ""}} {
		hellos := make(chan *tls.ClientHelloInfo, 1)
		cert := servertest.Issue(t, dnstest.CertOptions{})
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
			GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				hellos <- h
				return nil, errors.New("the test has the ClientHello")
			},
			Certificates: []tls.Certificate{cert},
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_ = c.(*tls.Conn).Handshake()
				c.Close()
			}
		}()
		cl := clientOf(t, transport.Config{Server: transport.Server{Addr: netip.MustParseAddrPort(l.Addr().String()), Name: tc.name}})
		_, err = servertest.Ask(t, cl, "www.example.")
		l.Close()
		servertest.WantEDE(t, err, wire.EDENetworkError, "the server refused the TLS handshake")
		h := <-hellos
		if h.ServerName != tc.sni {
			t.Errorf("name %q: SNI %q, want %q", tc.name, h.ServerName, tc.sni)
		}
		if len(h.SupportedProtos) != 1 || h.SupportedProtos[0] != "dot" {
			t.Errorf("ALPN %q, want dot", h.SupportedProtos)
		}
		for _, v := range h.SupportedVersions {
			if v < tls.VersionTLS12 {
				t.Errorf("TLS version %#x is offered", v)
			}
		}
	}
}

func TestOlderServers(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.NoALPN, c.MaxVersion = true, tls.VersionTLS12 })
	servertest.MustAsk(t, newClient(t, s), "www.example.")
	s = servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	_, err := servertest.Ask(t, newClient(t, s), "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "the server refused the TLS handshake")
}

// TestResumption: a later connection resumes the session of an earlier one, in both versions
// of TLS.
func TestResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.MaxVersion = version })
		cl := newClient(t, s)
		for i := range 3 {
			servertest.MustAsk(t, cl, "www.example.")
			if i == 2 {
				break
			}
			s.EndConns(dnstest.Close)
			servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })
		}
		st, gst := s.Stats(), cl.stats()
		if st.Handshakes != 3 || st.Resumed != 2 || gst.Resumed != 2 {
			t.Errorf("%#x: %d handshakes, %d resumed (%d as the client saw it), want 3 and 2", version, st.Handshakes, st.Resumed, gst.Resumed)
		}
	}
}

// TestResumedIsVerified: a resumed session is verified again, against the current
// requirements.
func TestResumedIsVerified(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	s.EndConns(dnstest.Close)
	servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })

	cl.pool.dialer.Verifier = &secure.Verifier{ALPN: "dot", Roots: servertest.CA().Pool, Now: time.Now,
		Server: transport.Server{Addr: s.Addr(), Name: servertest.Name, Pins: []transport.Pin{{1}}}}
	_, err := servertest.Ask(t, cl, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "its key does not match the pin")
	if n := s.Stats().Queries(); n != 1 {
		t.Errorf("%d queries reached the server, want only the first one", n)
	}
}

// TestRenewedCertificate: if the certificate of a session has expired, there is a full
// handshake, in which the server sends its new one.
func TestRenewedCertificate(t *testing.T) {
	short := servertest.Issue(t, dnstest.CertOptions{Names: []string{servertest.Name}, NotAfter: time.Now().Add(time.Hour)})
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.Certificate = short })
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	s.EndConns(dnstest.Close)
	servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })

	s.SetCertificate(servertest.Issue(t, dnstest.CertOptions{}))
	later := func() time.Time { return time.Now().Add(2 * time.Hour) }
	cl.pool.dialer.Verifier = &secure.Verifier{ALPN: "dot", Roots: servertest.CA().Pool, Now: later, Server: cl.cfg.Server}
	servertest.MustAsk(t, cl, "www.example.")
}

// TestConfiguredCAs: the authorities of the configuration are tried before those of the system, which are then not read, unless a
// pin may be one of them.
func TestConfiguredCAs(t *testing.T) {
	stranger, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what              string
		configured, roots *dnstest.CA
		pin               bool
		reads             bool
		want              string
	}{
		{what: "certified by one of them", configured: servertest.CA(), roots: stranger},
		{what: "certified by another one", configured: stranger, roots: servertest.CA(), reads: true},
		{what: "by none", configured: stranger, roots: stranger, reads: true, want: "an untrusted CA"},
		{what: "a pin", configured: servertest.CA(), roots: servertest.CA(), pin: true, reads: true},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := servertest.Serve(t, servertest.Zone(t), nil)
			srv := transport.Server{Addr: s.Addr(), Name: servertest.Name}
			if tc.pin {
				srv.Pins = []transport.Pin{transport.PinOf(servertest.CA().Certificate())}
			}
			var read atomic.Bool
			cl := clientOf(t, transport.Config{Server: srv, ConfiguredCAs: tc.configured.Pool(), RootCAs: func() *x509.CertPool {
				read.Store(true)
				return tc.roots.Pool()
			}})
			_, err := servertest.Ask(t, cl, "www.example.")
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("not trusted: %v", err)
			case tc.want != "":
				servertest.WantEDE(t, err, wire.EDENetworkError, tc.want)
			}
			if read.Load() != tc.reads {
				t.Errorf("the system's authorities were read: %v", !tc.reads)
			}
		})
	}
}
