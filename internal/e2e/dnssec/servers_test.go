// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// Addresses of the servers. The zones are on the first three.
const (
	addrNSD, addrKnot, addrBIND = "127.0.0.2", "127.0.0.3", "127.0.0.4"
	addrUpstream                = "127.0.0.5"
	addrUnbound, addrNamed      = "127.0.0.6", "127.0.0.7"
	addrSotto                   = "127.0.0.8"
)

// start starts a server that runs in the foreground, until the test ends.
func start(t *testing.T, addr string, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { defer close(exited); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-exited:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			text := log.String()
			t.Logf("%s: %s", name, text[max(0, len(text)-3000):])
		}
	})
	e2e.Eventually(t, name+" to answer", func() bool {
		select {
		case <-exited:
			t.Fatalf("%s has exited: %s", name, log.String())
		default:
		}
		m := new(dns.Msg)
		m.SetQuestion(".", dns.TypeSOA)
		c := dns.Client{Timeout: time.Second}
		r, _, err := c.Exchange(m, addr+":53")
		return err == nil && r.Rcode != dns.RcodeServerFailure
	})
	return cmd
}

// serveZones starts the servers of the zones, and returns the names of a hints file and of a file
// with the trust anchor.
func serveZones(t *testing.T, dir string, zones []*zone) (hints, anchor string) {
	t.Helper()
	if err := os.Chmod(dir, 0o777); err != nil { // BIND and unbound change their user
		t.Fatal(err)
	}
	for p := dir; p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o777)
	}
	for _, addr := range []string{addrBIND, addrNamed} { // BIND listens only on addresses of interfaces
		command(t, dir, "ip", "address", "add", addr+"/32", "dev", "lo")
		t.Cleanup(func() { _ = exec.Command("ip", "address", "delete", addr+"/32", "dev", "lo").Run() })
	}
	var nsd, knot, bind strings.Builder
	for i, z := range zones {
		file := filepath.Join(dir, fmt.Sprintf("signed-%d", i))
		writeFile(t, file, z.records)
		switch z.server {
		case 0:
			fmt.Fprintf(&nsd, "zone:\n  name: %q\n  zonefile: %q\n", z.name, file)
		case 1:
			fmt.Fprintf(&knot, "  - domain: %q\n    file: %q\n", z.name, file)
		case 2:
			fmt.Fprintf(&bind, "zone %q { type primary; file %q; check-names ignore; };\n", z.name, file)
		}
	}
	root := zones[len(zones)-1]
	writeFile(t, dir+"/nsd.conf", fmt.Sprintf("server:\n  ip-address: %s\n  username: \"\"\n  zonesdir: %[2]q\n  pidfile: \"\"\n  database: \"\"\n  zonelistfile: %[2]s/nsd.list\n  xfrdfile: %[2]s/xfrd\n  verbosity: 1\nremote-control:\n  control-enable: no\n%s",
		addrNSD, dir, nsd.String()))
	start(t, addrNSD, "nsd", "-d", "-c", dir+"/nsd.conf")
	writeFile(t, dir+"/knot.conf", fmt.Sprintf("server:\n  listen: %s@53\n  rundir: %[2]s\ndatabase:\n  storage: %[2]s/knot-db\ntemplate:\n  - id: default\n    semantic-checks: soft\n    zonefile-load: whole\n    journal-content: none\nzone:\n%s", addrKnot, dir, knot.String()))
	start(t, addrKnot, "knotd", "-c", dir+"/knot.conf")
	writeFile(t, dir+"/bind.conf", namedConf(dir, "bind", addrBIND, "recursion no; dnssec-validation no;\n", bind.String()))
	start(t, addrBIND, "named", "-g", "-c", dir+"/bind.conf")

	hints, anchor = dir+"/hints", dir+"/root.key"
	writeFile(t, hints, ". 3600 IN NS ns.root.\nns.root. 3600 IN A "+addrNSD+"\n")
	writeFile(t, anchor, strings.Join(root.dsSet, "\n")+"\n")
	return hints, anchor
}

func namedConf(dir, name, addr, options, zones string) string {
	return fmt.Sprintf("options { directory %[1]q; listen-on { %[3]s; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; managed-keys-directory %[1]q; query-source address %[3]s; max-cache-size 32m; %[4]s };\ncontrols { };\n%[5]s",
		dir, name, addr, options, zones)
}

const unboundConf = `server:
  interface: %[1]s
  directory: %[2]q
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-ip6: no
  num-threads: 1
  do-not-query-localhost: no
  outgoing-interface: %[1]s
  root-hints: %[3]q
  access-control: 127.0.0.0/8 allow
  local-zone: "test." nodefault
  minimal-responses: %[5]s
  qname-minimisation: no
  ede: yes
  %[4]s
remote-control:
  control-enable: no
`

// certificate writes cert.pem and key.pem of dns.example, and ca.pem of its authority.
func certificate(t *testing.T, dir string) {
	t.Helper()
	authority, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(dnstest.CertOptions{Names: []string{"dns.example"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := dnstest.PEMPair(pair)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/cert.pem", string(cert))
	writeFile(t, dir+"/key.pem", string(key))
	writeFile(t, dir+"/ca.pem", string(authority.PEM()))
}

// resolvers starts the upstream of Sotto, and the resolvers that it is compared with. It returns
// the server and the file of its certificate authority, for the settings of Sotto.
func resolvers(t *testing.T, dir, hints, anchor string) (server, ca string) {
	t.Helper()
	certificate(t, dir)
	writeFile(t, dir+"/upstream.conf", fmt.Sprintf(unboundConf, addrUpstream, dir, hints, fmt.Sprintf("interface: %s@853\n  tls-service-pem: %q\n  tls-service-key: %q\n  module-config: \"iterator\"", addrUpstream, dir+"/cert.pem", dir+"/key.pem"), "no"))
	start(t, addrUpstream, "unbound", "-d", "-c", dir+"/upstream.conf")
	writeFile(t, dir+"/unbound.conf", fmt.Sprintf(unboundConf, addrUnbound, dir, hints, fmt.Sprintf("module-config: \"validator iterator\"\n  trust-anchor-file: %q", anchor), "no"))
	start(t, addrUnbound, "unbound", "-d", "-c", dir+"/unbound.conf")

	text, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	m := dsFields.FindStringSubmatch(string(text))
	writeFile(t, dir+"/named.conf", namedConf(dir, "named", addrNamed, "recursion yes; dnssec-validation yes; qname-minimization off;\n",
		fmt.Sprintf("trust-anchors { . static-ds %s %s %s %q; };\nzone \".\" { type hint; file %q; };\n", m[1], m[2], m[3], m[4], hints)))
	start(t, addrNamed, "named", "-g", "-c", dir+"/named.conf")
	return addrUpstream + ":853#dns.example", dir + "/ca.pem"
}

// startSotto starts `sotto serve`.
func startSotto(t *testing.T, dir, addr, settings string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(dir, "sotto-"+addr+".toml")
	writeFile(t, file, fmt.Sprintf("listen = [%q]\ncontrol = %q\n%s", addr+":53", filepath.Join(dir, addr+".sock"), settings))
	return start(t, addr, e2e.Build(t), "serve", "--config", file)
}
