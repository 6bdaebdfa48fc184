// SPDX-License-Identifier: Apache-2.0

package groups

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// unboundConfig is the configuration of an unbound that answers every name with one address, in
// plain DNS and over TLS, and designates itself.
const unboundConfig = `server:
 username: ""
 chroot: ""
 pidfile: ""
 directory: %q
 interface: %s@53
 interface: %s@853
 access-control: 0.0.0.0/0 allow
 tls-service-pem: cert.pem
 tls-service-key: key.pem
 tls-port: 853
 use-syslog: no
 num-threads: 1
 module-config: iterator
 local-zone: . redirect
 local-data: ". A %s"
 local-data: ". NS ns.example."
 local-zone: resolver.arpa. static
 local-data: '_dns.resolver.arpa. 300 SVCB 1 dot.example. alpn="dot" port="853"'
remote-control:
 control-enable: no
`

// serveUnbound serves plain DNS and DNS over TLS with unbound at byUnbound.
func (w world) serveUnbound(answer string) {
	t := w.T
	t.Helper()
	cert, err := w.CA.Issue(dnstest.CertOptions{IPs: []netip.Addr{netip.MustParseAddr(byUnbound)}})
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := dnstest.PEMPair(cert)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "unbound.conf")
	e2e.WriteFile(t, filepath.Join(dir, "cert.pem"), string(chain))
	e2e.WriteFile(t, filepath.Join(dir, "key.pem"), string(key))
	e2e.WriteFile(t, file, fmt.Sprintf(unboundConfig, dir, byUnbound, byUnbound, answer))
	cmd := w.other.Command(context.Background(), nil, labtest.NeedTool(t, "unbound"), "-d", "-c", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out labtest.LogBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }() // its status is the signal's
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("unbound wrote:\n%s", out.String())
		}
	})
	w.Until("unbound to start", func() bool { return strings.Contains(out.String(), "start of service") })
}
