// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	"sotto/internal/capture"
	"sotto/internal/dnstest"
	"sotto/internal/e2e/client"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// The addresses in the answers of the DNS over TLS upstream and of the plain nameservers:
// an answer shows which of them gave it.
const (
	Sealed4, Sealed6 = client.Answer4, client.Answer6
	Plain4, Plain6   = "203.0.113.66", "2001:db8:bad::66"

	UpstreamName = "dns.example"
	UpstreamAddr = netlab.LANAddr4 + ":853"
)

// World is a host that is connected to one LAN and nothing else. On the LAN a DNS over TLS
// server is the upstream, and plain nameservers at all well-known addresses answer queries
// that were not intercepted. A capture at the LAN's end of the wire sees every packet.
type World struct {
	T         *testing.T
	Lab       *netlab.Lab
	Host, LAN *netlab.Host
	Upstream  *dnstest.Server
	Handler   *dnstest.Switch // of the upstream
	CA        *dnstest.CA     // of the upstream's certificate
	CAFile    string

	Program Program

	names int // number of names that DigFresh queried

	mu   sync.Mutex
	pids []int // process IDs of all sottos that were started
}

// New makes a world that is removed at the end of the test. Its program is built on the first
// call.
func New(t *testing.T) *World {
	t.Helper()
	labtest.LockMachine(t) // skips the test before the build
	return NewWith(t, Program{Path: program.path(t)})
}

// NewWith is New with another program.
func NewWith(t *testing.T, program Program) *World {
	t.Helper()
	l, host, lan := labtest.LAN(t)
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Lab: l, Host: host, LAN: lan, CA: ca, CAFile: filepath.Join(t.TempDir(), "ca.pem"), Program: program}
	WriteFile(t, w.CAFile, string(ca.PEM()))
	w.Handler = dnstest.NewSwitch(w.Zone(Sealed4, Sealed6))
	w.startUpstream()
	w.startPlain()
	return w
}

// Zone returns a zone in which all names have these addresses.
func (w *World) Zone(a, aaaa string) *dnstest.Zone {
	w.T.Helper()
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{A: []netip.Addr{netip.MustParseAddr(a)}, AAAA: []netip.Addr{netip.MustParseAddr(aaaa)}})
	if err != nil {
		w.T.Fatal(err)
	}
	return zone
}

// startUpstream serves DNS over TLS on the LAN with the answers of w.Handler.
func (w *World) startUpstream() {
	w.T.Helper()
	cert, err := w.CA.Issue(dnstest.CertOptions{Names: []string{UpstreamName}, IPs: []netip.Addr{netip.MustParseAddr(netlab.LANAddr4)}})
	if err != nil {
		w.T.Fatal(err)
	}
	cfg := dnstest.Config{Handler: w.Handler, Certificate: cert, LogQueries: 10000}
	err = w.LAN.Do(func() error {
		l, err := dnstest.Listen(netip.MustParseAddrPort("[::]:853"))
		cfg.TLS = []net.Listener{l}
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	w.Upstream = Serve(w.T, cfg)
}

// startPlain serves plain DNS at the address of every well-known nameserver.
func (w *World) startPlain() {
	w.T.Helper()
	cfg := dnstest.Config{Handler: w.Zone(Plain4, Plain6)}
	err := w.LAN.Do(func() error {
		for _, addr := range netlab.Nameservers {
			l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(netip.MustParseAddr(addr), 53))
			if err != nil {
				return err
			}
			cfg.TCP, cfg.UDP = append(cfg.TCP, l), append(cfg.UDP, pc)
		}
		return nil
	})
	if err != nil {
		w.T.Fatal(err)
	}
	Serve(w.T, cfg)
}

// CapturePlain starts a capture of the wire. The function that it returns stops the
// capture and returns the captured packets to or from port 53.
func (w *World) CapturePlain() (c *capture.Capture, plain func() []capture.Packet) {
	w.T.Helper()
	c, err := capture.Start(w.LAN.NS, netlab.LANIf)
	if err != nil {
		w.T.Fatal(err)
	}
	return c, func() []capture.Packet {
		packets, err := c.Stop()
		if err != nil {
			w.T.Errorf("capture: %v", err)
		}
		return capture.Plain(packets)
	}
}

// Watch captures the wire until the test ends or the capture is stopped. It fails the test
// if it captured a packet to or from port 53.
func (w *World) Watch() *capture.Capture {
	w.T.Helper()
	c, plain := w.CapturePlain()
	w.T.Cleanup(func() {
		for _, p := range plain() {
			w.T.Errorf("plain DNS packet on the wire: %v", p)
		}
	})
	return c
}

// StopWatching stops a capture before the seal is opened on purpose. Plain packets until then
// fail the test as usual.
func (w *World) StopWatching(c *capture.Capture) {
	w.T.Helper()
	if _, err := c.Stop(); err != nil {
		w.T.Error(err)
	}
}

// Cgroup makes a cgroup that is removed with the world.
func (w *World) Cgroup(name string) *netlab.Cgroup {
	w.T.Helper()
	g, err := w.Lab.Cgroup(name)
	if err != nil {
		w.T.Fatal(err)
	}
	return g
}

// Shell runs a script in the host.
func (w *World) Shell(script string) {
	w.T.Helper()
	if out, err := w.Host.Command(w.T.Context(), nil, "sh", "-ec", script).CombinedOutput(); err != nil {
		w.T.Fatalf("%s: %v\n%s", script, err, out)
	}
}
