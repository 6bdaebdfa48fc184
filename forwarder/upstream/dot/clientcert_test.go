// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// clientCert returns a client certificate of the tests' CA.
func clientCert(t *testing.T) *tls.Certificate {
	c := servertest.Issue(t, dnstest.CertOptions{Names: []string{"client.example"}, Client: true})
	return &c
}

// TestClientCertificate: a server that requires a client certificate gets it, sessions with
// it are resumed, and without one that it accepts the error explains why. Neither leads to
// repeated connections.
func TestClientCertificate(t *testing.T) {
	stranger, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.Issue(dnstest.CertOptions{Names: []string{"client.example"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		for _, tc := range []struct {
			what string
			cert *tls.Certificate
			want string
		}{
			{"accepted", clientCert(t), ""},
			{"missing", nil, "the server requires a client certificate: configure client-cert and client-key"},
			{"of an authority that the server does not know", &foreign, "the server refused the client certificate: "},
		} {
			t.Run(name+" "+tc.what, func(t *testing.T) {
				s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
					c.ClientCAs, c.MinVersion, c.MaxVersion = servertest.CA().Pool(), version, version
				})
				st := checkClientCert(t, s.Addr(), tc.cert, tc.want)
				if tc.want == "" && st.Resumed != 2 {
					t.Errorf("%d sessions were resumed, want 2", st.Resumed)
				}
				if n := s.Stats().Queries(); tc.want != "" && n != 0 {
					t.Errorf("the server answered %d queries", n)
				}
			})
		}
	}
}

// checkClientCert asks a server for names over three connections. want is the expected error,
// or "" for success.
func checkClientCert(t *testing.T, addr netip.AddrPort, cert *tls.Certificate, want string) transport.Stats {
	t.Helper()
	g := clientOf(t, transport.Config{Server: transport.Server{Addr: addr, Name: servertest.Name}, ClientCert: cert})
	for i := range 3 {
		reply, err := servertest.Ask(t, g, "www.example.")
		if want != "" {
			servertest.WantEDE(t, err, wire.EDENetworkError, want)
			if n := g.stats().Dials; n > uint64(i+1) {
				t.Errorf("%d connections for %d queries", n, i+1)
			}
			continue
		}
		if err != nil || wire.Rcode(reply) != wire.RcodeSuccess {
			t.Fatalf("%x, %v", reply, err)
		}
		g.pool.Reset() // the next query needs another connection
	}
	if st := g.stats(); want == "" && st.Dials != 3 {
		t.Errorf("%d connections: want 3", st.Dials)
	}
	return g.pool.Stats()
}

const stunnelConfig = `
foreground = yes
pid =
debug = warning
[dns]
accept = 127.0.0.1:PORT
connect = BACKEND
cert = cert.pem
key = key.pem
CAfile = ca.pem
verifyChain = yes
requireCert = yes
`

// TestClientCertificateStunnel is TestClientCertificate with stunnel in front of a server.
func TestClientCertificateStunnel(t *testing.T) {
	l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	backend, err := dnstest.New(dnstest.Config{Handler: servertest.Zone(t), TCP: []net.Listener{l}, UDP: []net.PacketConn{pc}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- backend.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, ca, servertest.CA().PEM())
	for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
		t.Run(name, func(t *testing.T) {
			is := interop{name: "stunnel", args: []string{"CONFIG"},
				config: strings.NewReplacer("BACKEND", fmt.Sprint(backend.Addr()), "ca.pem", ca).Replace(stunnelConfig)}
			addr := is.start(t, version)
			checkClientCert(t, addr, clientCert(t), "")
			checkClientCert(t, addr, nil, "the server requires a client certificate")
		})
	}
}
