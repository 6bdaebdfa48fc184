// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

const nsdConfig = `server:
  ip-address: 127.0.0.1@PORT
  ip-address: 127.0.0.1@TLS
  tls-port: TLS
  tls-service-key: "DIR/key.pem"
  tls-service-pem: "DIR/cert.pem"
  username: ""
  chroot: ""
  database: ""
  xfrdir: "DIR"
  zonesdir: "DIR"
  zonelistfile: "DIR/zones"
  xfrdfile: "DIR/xfrd"
  pidfile: "DIR/pid"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: example
  zonefile: example.zone
`

// startNSD starts nsd with a name that has ten mail servers and their addresses. It returns
// its address in plain DNS.
func startNSD(t *testing.T) (*upstream, string) {
	t.Helper()
	program, err := exec.LookPath("nsd")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nsd"); err != nil {
			t.Skip("nsd is not installed")
		}
	}
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{e2e.UpstreamName}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := dnstest.PEMPair(cert)
	if err != nil {
		t.Fatal(err)
	}
	zone := "$ORIGIN example.\n$TTL 300\n@ SOA ns host 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
	for i := range 10 {
		zone += fmt.Sprintf("mail MX %d mx%d.mail\nmx%d.mail A 192.0.2.%d\nmx%d.mail AAAA 2001:db8::%d\n", i, i, i, i, i, i)
	}
	for range 5 {
		// Another program may take a port before nsd does.
		if up, plain := tryNSD(t, program, map[string]string{"example.zone": zone, "cert.pem": string(chain), "key.pem": string(key), "ca.pem": string(ca.PEM())}); up != nil {
			return up, plain
		}
	}
	t.Fatal("nsd did not start")
	return nil, ""
}

// tryNSD starts nsd with these files. It returns nil if nsd exits.
func tryNSD(t *testing.T, program string, files map[string]string) (*upstream, string) {
	t.Helper()
	dir, plain, tls := t.TempDir(), freePort(t), freePort(t)
	_, plainPort, _ := strings.Cut(plain, ":")
	_, tlsPort, _ := strings.Cut(tls, ":")
	files["nsd.conf"] = strings.NewReplacer("PORT", plainPort, "TLS", tlsPort, "DIR", dir).Replace(nsdConfig)
	for name, text := range files {
		e2e.WriteFile(t, filepath.Join(dir, name), text)
	}
	cmd := exec.Command(program, "-d", "-c", filepath.Join(dir, "nsd.conf"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-exited
	})
	answers, gone := false, false
	e2e.Eventually(t, "nsd to answer", func() bool {
		select {
		case <-exited:
			gone = true
		default:
			m := new(dns.Msg).SetQuestion("example.", dns.TypeSOA)
			_, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, plain)
			answers = err == nil
		}
		return answers || gone
	})
	if gone {
		return nil, ""
	}
	return &upstream{settings: fmt.Sprintf("upstream = [%q]\nca-file = %q\n", tls+"#"+e2e.UpstreamName, filepath.Join(dir, "ca.pem"))}, plain
}

// TestSameAsNameserver: a long answer has the same records, size and flags as the nameserver
// sends to the same client, whatever the client accepts, first and from the cache.
func TestSameAsNameserver(t *testing.T) {
	up, nameserver := startNSD(t)
	i := start(t, up, "")
	ask := func(at, network string, size uint16, do bool) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion("mail.example.", dns.TypeMX)
		if size != 0 {
			m.SetEdns0(size, do)
		}
		c := dns.Client{Net: network, Timeout: 20 * time.Second}
		r, _, err := c.Exchange(m, at)
		if err != nil {
			t.Fatalf("%s over %s: %v", at, network, err)
		}
		return r
	}
	records := func(rrs []dns.RR) []string {
		var all []string
		for _, rr := range rrs {
			if rr.Header().Rrtype != dns.TypeOPT {
				rr.Header().Ttl = 0
				all = append(all, rr.String())
			}
		}
		slices.Sort(all)
		return all
	}
	for _, size := range []uint16{0, 512, 600, 1232} {
		for _, network := range []string{"udp", "tcp", "udp"} {
			want, got := ask(nameserver, network, size, false), ask(i.at, network, size, false)
			if got.Truncated != want.Truncated || !slices.Equal(records(got.Answer), records(want.Answer)) ||
				!slices.Equal(records(got.Ns), records(want.Ns)) || !slices.Equal(records(got.Extra), records(want.Extra)) {
				t.Errorf("%s, size %d: got\n%v\nwant\n%v", network, size, got, want)
			}
		}
	}
}
