// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"sotto/internal/check"
	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

// serve starts a server on the LAN with a certificate, and returns its address.
func (w world) serve(port int, cert tls.Certificate) string {
	w.T.Helper()
	cfg := dnstest.Config{Handler: w.Zone(e2e.Sealed4, e2e.Sealed6), Certificate: cert}
	cfg.TLS = []net.Listener{w.listen(port)}
	e2e.Serve(w.T, cfg)
	return fmt.Sprintf("%s:%d", netlab.LANAddr4, port)
}

// listen opens a port on the LAN that accepts connections, and is closed by its user.
func (w world) listen(port int) (l net.Listener) {
	w.T.Helper()
	err := w.LAN.Do(func() (err error) {
		l, err = dnstest.Listen(netip.AddrPortFrom(netip.MustParseAddr(netlab.LANAddr4), uint16(port)))
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return l
}

// issue returns a certificate for dns.example of a certificate authority.
func (w world) issue(ca *dnstest.CA, o dnstest.CertOptions) tls.Certificate {
	w.T.Helper()
	if o.Names == nil {
		o.Names = []string{e2e.UpstreamName}
	}
	cert, err := ca.Issue(o)
	if err != nil {
		w.T.Fatal(err)
	}
	return cert
}

// TestBrokenUpstreams checks servers that do not answer, or cannot be authenticated. Alone each is
// a failure, next to one that works it is a warning.
func TestBrokenUpstreams(t *testing.T) {
	w := newWorld(t)
	other, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	silent := w.listen(8531)
	defer silent.Close()
	now := time.Now()
	hour := time.Hour
	expired := w.issue(w.CA, dnstest.CertOptions{NotBefore: now.Add(-2 * hour), NotAfter: now.Add(-hour)})
	future := w.issue(w.CA, dnstest.CertOptions{NotBefore: now.Add(hour), NotAfter: now.Add(2 * hour)})
	for name, c := range map[string]struct {
		addr, detail, fix string
		clock             bool // the clock may be wrong
	}{
		"refused":       {netlab.LANAddr4 + ":8530", "connection refused: nothing listens on TCP port 8530 there", "check the address, the protocol and the port", false},
		"times out":     {netlab.LANAddr4 + ":8531", "no answer within 3.5", "firewall of the network", false},
		"no route":      {"192.0.2.99:853", "no route to it from this machine", "connect this machine to the network", false},
		"other name":    {w.serve(8532, w.issue(w.CA, dnstest.CertOptions{Names: []string{"other.example"}})), "its certificate is for other.example, not for dns.example", "ADDRESS#NAME", false},
		"expired":       {w.serve(8533, expired), "its certificate expired on ", "the operator of the server has to renew", true},
		"not yet valid": {w.serve(8534, future), "its certificate is not valid before ", "set the clock of this machine: timedatectl", true},
		"unknown CA":    {w.serve(8535, w.issue(other, dnstest.CertOptions{})), "from an untrusted CA", "set ca-file", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{w.World}
			server := c.addr + "#" + e2e.UpstreamName
			m := machine{args: []string{"--upstream", server, "--ca-file", w.CAFile, "--no-query"}, setup: "ip route add unreachable 192.0.2.99"}
			wants := func(state check.State) []want {
				all := []want{{"upstream " + server, state, c.detail, c.fix}, {"sealed query", check.Skipped, "--no-query", ""}}
				if c.clock {
					all = append(all, want{"clock", check.Warning, "certificates are not valid at this time: " + server, "timedatectl set-ntp true"})
				}
				return all
			}
			w.expect(m, wants(check.Failed)...)
			w.Shell("ip route del unreachable 192.0.2.99")
			m.args = append(m.args, "--upstream", e2e.UpstreamAddr+"#"+e2e.UpstreamName)
			w.expect(m, wants(check.Warning)...)
			w.Shell("ip route del unreachable 192.0.2.99")
		})
	}
}

// TestQueryWithoutUpstream checks that a sealed query that Sotto answers with an error is not
// mistaken for one that a firewall dropped.
func TestQueryWithoutUpstream(t *testing.T) {
	w := newWorld(t)
	server := netlab.LANAddr4 + ":8530"
	w.Shell("nft 'table inet fw { chain out { type filter hook output priority 0; policy drop; accept; }; }'")
	w.expect(machine{args: []string{"--upstream", server}},
		want{"upstream " + server, check.Failed, "connection refused", "check the address, the protocol and the port"},
		want{"sealed query", check.Failed, "udp4: SERVFAIL (" + server + ": connection refused", "see the upstreams above"})
}
