// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestInterop queries other DNS-over-TLS servers on loopback, each with either version of
// TLS. They close idle connections soon and, if they can, every connection after a few
// queries: no query is lost, few connections are open, and sessions are resumed if the
// server issues any.
func TestInterop(t *testing.T) {
	for _, is := range []interop{
		{name: "nsd", config: nsdConfig, args: []string{"-d", "-c", "CONFIG"}, limit: 100, idle: time.Second},
		{name: "unbound", config: unboundConfig, args: []string{"-d", "-c", "CONFIG"}, idle: time.Second, keepalive: time.Second},
		{name: "kresd", config: kresdConfig, args: []string{"-n", "-c", "CONFIG", "."}, keepalive: 10 * time.Second},
		{name: "dnsdist", config: dnsdistConfig, args: []string{"--supervised", "--disable-syslog", "-C", "CONFIG"}, limit: 100, idle: time.Second},
	} {
		for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
			t.Run(is.name+" "+name, func(t *testing.T) { is.run(t, version) })
		}
	}
}

// interop is one server program and its expected behaviour.
type interop struct {
	name   string
	config string   // PORT and PLAIN are replaced by ports
	args   []string // CONFIG is replaced by the name of the file

	limit     uint64        // queries after which it closes a connection; 0: never
	idle      time.Duration // time after which it closes an unused one; 0: too long for a test
	keepalive time.Duration // the timeout that it announces (RFC 7828)
}

const nsdConfig = `
server:
	ip-address: 127.0.0.1@PORT
	port: PLAIN
	tls-port: PORT
	tls-service-key: key.pem
	tls-service-pem: cert.pem
	tcp-query-count: 100
	tcp-timeout: 1
	server-count: 1
	username: ""
	chroot: ""
	zonesdir: "."
	database: ""
	pidfile: ""
	xfrdfile: "xfrd.state"
	xfrdir: "."
	zonelistfile: "zone.list"
remote-control:
	control-enable: no
zone:
	name: example
	zonefile: example.zone
`

const unboundConfig = `
server:
	interface: 127.0.0.1@PORT
	tls-port: PORT
	tls-service-key: key.pem
	tls-service-pem: cert.pem
	tcp-idle-timeout: 1000
	edns-tcp-keepalive: yes
	edns-tcp-keepalive-timeout: 1000
	incoming-num-tcp: 8
	num-threads: 1
	username: ""
	chroot: ""
	directory: "."
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	do-udp: no
	module-config: "iterator"
	access-control: 127.0.0.0/8 allow
	local-zone: "example." redirect
	local-data: "example. 300 IN A 192.0.2.1"
remote-control:
	control-enable: no
`

const kresdConfig = `
net.tls('cert.pem', 'key.pem')
net.listen('127.0.0.1', PORT, { kind = 'tls' })
trust_anchors.remove('.')
policy.add(policy.all(policy.ANSWER({ [kres.type.A] = { rdata = kres.str2ip('192.0.2.1'), ttl = 300 } })))
`

const dnsdistConfig = `
setLocal('127.0.0.1:PLAIN')
setACL('127.0.0.0/8')
setSecurityPollSuffix('')
setMaxTCPQueriesPerConnection(100)
setTCPRecvTimeout(1)
addTLSLocal('127.0.0.1:PORT', 'cert.pem', 'key.pem', { provider = 'openssl' })
addAction(AllRule(), SpoofAction('192.0.2.1'))
`

const zoneFile = `$ORIGIN example.
$TTL 300
@ IN SOA ns hostmaster 1 3600 900 86400 300
@ IN NS ns
* IN A 192.0.2.1
`

// only restricts the two TLS libraries to one version.
var only = map[uint16]struct{ openssl, gnutls string }{
	tls.VersionTLS12: {"MaxProtocol = TLSv1.2", "disabled-version = tls1.3"},
	tls.VersionTLS13: {"MinProtocol = TLSv1.3", "disabled-version = tls1.2"},
}

const opensslConfig = `openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = defaults
[defaults]
`

func (is *interop) run(t *testing.T, version uint16) {
	addr := is.start(t, version)
	cl := clientOf(t, transport.Config{Server: transport.Server{Addr: addr, Name: servertest.Name}})
	servertest.MustAsk(t, cl, "www.example.")
	state := cl.pool.firstConn().nc.ConnectionState()
	if state.Version != version {
		t.Fatalf("its TLS version is %#x, want %#x", state.Version, version)
	}
	if is.keepalive != 0 {
		if idle := idleOf(cl); idle != clientTimeout(is.keepalive) {
			t.Errorf("a connection may be idle for %v, want %v", idle, clientTimeout(is.keepalive))
		}
	}
	is.load(t, cl)
	if is.idle != 0 {
		servertest.Eventually(t, "the idle connections are closed", func() bool { return cl.stats().Conns == 0 })
	} else {
		cl.pool.Reset()
	}
	before := cl.stats()
	offered := cl.pool.dialer.Sessions(addr).Len() > 0
	servertest.MustAsk(t, cl, "www.example.")
	st := cl.stats()
	if st.Dials != before.Dials+1 || st.Failed != before.Failed {
		t.Errorf("after an idle close: %+v, before %+v", st, before)
	}
	// All issue tickets with 1.3; Knot Resolver does not with 1.2.
	if offered && st.Resumed != before.Resumed+1 || !offered && version == tls.VersionTLS13 {
		t.Errorf("%d of %d sessions were resumed, but not the last (offered: %v)", st.Resumed, st.Dials, offered)
	}
	t.Logf("%d queries, %d connections, %d resumed, %d resent", st.Queries, st.Dials, st.Resumed, st.Resent)
}

// load asks for thousands of names at once, and checks how many connections that needs.
func (is *interop) load(t *testing.T, cl *client) {
	const askers, each = 100, 30
	var most atomic.Int64
	stop := make(chan struct{})
	var watch, wg sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				most.Store(max(most.Load(), int64(cl.stats().Conns)))
			}
		}
	})
	for i := range askers {
		wg.Go(func() {
			for j := range each {
				r, err := servertest.Ask(t, cl, fmt.Sprintf("n%d-%d.example.", i, j))
				if err != nil || wire.Rcode(r) != wire.RcodeSuccess || !bytes.Contains(r, []byte{192, 0, 2, 1}) {
					t.Errorf("%d of %d: %x, %v", j, i, r, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	watch.Wait()
	few := int64(4)
	if is.limit != 0 {
		few = 16 // including those that only wait for their last replies
	}
	if n := most.Load(); n > few {
		t.Errorf("%d connections at once, want at most %d", n, few)
	}
	st := cl.stats()
	if st.LastError != "" {
		t.Errorf("the server failed: %s", st.LastError)
	}
	// Twice as many, because lost queries count as well.
	if most := uint64(4); is.limit == 0 && st.Dials > most || is.limit != 0 && st.Dials > most+2*askers*each/is.limit {
		t.Errorf("%d connections for %d queries", st.Dials, st.Queries)
	}
}

// start runs the server until the test ends, and returns its address.
func (is *interop) start(t *testing.T, version uint16) netip.AddrPort {
	path, err := exec.LookPath(is.name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + is.name) // it may not be in PATH
	}
	if err != nil {
		servertest.Skip(t, "needs the program "+is.name)
	}
	dir := t.TempDir()
	addr, plain := freePort(t), freePort(t)
	config := strings.NewReplacer("PORT", fmt.Sprint(addr.Port()), "PLAIN", fmt.Sprint(plain.Port())).Replace(is.config)
	for name, text := range map[string]string{
		"config": config, "example.zone": zoneFile,
		"openssl.cnf": opensslConfig + only[version].openssl + "\n",
		"gnutls.conf": "[overrides]\n" + only[version].gnutls + "\n",
	} {
		writeFile(t, filepath.Join(dir, name), []byte(text))
	}
	writeCertificate(t, dir)

	var out servertest.LogBuffer
	args := strings.Split(strings.ReplaceAll(strings.Join(is.args, " "), "CONFIG", filepath.Join(dir, "config")), " ")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	cmd.Env = append(os.Environ(), "OPENSSL_CONF="+filepath.Join(dir, "openssl.cnf"), "GNUTLS_SYSTEM_PRIORITY_FILE="+filepath.Join(dir, "gnutls.conf"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second // then kill it
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("output of %s:\n%s", is.name, out.String())
		}
	})
	servertest.Eventually(t, is.name+" listens", func() bool {
		nc, err := net.DialTimeout("tcp", addr.String(), time.Second)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return addr
}

// writeCertificate writes cert.pem and key.pem.
func writeCertificate(t *testing.T, dir string) {
	cert := servertest.Issue(t, dnstest.CertOptions{})
	chain, key, err := dnstest.PEMPair(cert)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "cert.pem"), chain)
	writeFile(t, filepath.Join(dir, "key.pem"), key)
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort returns an address with a port that is free over TCP and UDP.
func freePort(t *testing.T) netip.AddrPort {
	l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer pc.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}
