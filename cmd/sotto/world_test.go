// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/internal/capture"
	"sotto/internal/dnstest"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// The addresses in the answers of the DNS over TLS upstream and of the plain nameservers:
// an answer shows which of them gave it.
const (
	sealed4, sealed6 = "192.0.2.1", "2001:db8::1"
	plain4, plain6   = "203.0.113.66", "2001:db8:bad::66"

	upstreamName = "dns.example"
	upstreamAddr = netlab.LANAddr4 + ":853"
)

// world is a host that is connected to one LAN and nothing else. On the LAN a DNS over TLS
// server is the upstream, and plain nameservers at all well-known addresses answer queries
// that were not intercepted. A capture at the LAN's end of the wire sees every packet.
type world struct {
	t         *testing.T
	lab       *netlab.Lab
	host, lan *netlab.Host
	upstream  *dnstest.Server
	handler   *dnstest.Switch
	ca        *dnstest.CA
	caFile    string

	names int // number of names that digFresh queried

	mu   sync.Mutex
	pids []int // process IDs of all sottos that were started
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l, host, lan := labtest.LAN(t)
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, lab: l, host: host, lan: lan, ca: ca, caFile: filepath.Join(t.TempDir(), "ca.pem")}
	write(t, w.caFile, string(ca.PEM()))
	w.handler = dnstest.NewSwitch(w.zone(sealed4, sealed6))
	w.startUpstream()
	w.startPlain()
	return w
}

func (w *world) zone(a, aaaa string) *dnstest.Zone {
	w.t.Helper()
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{A: []netip.Addr{netip.MustParseAddr(a)}, AAAA: []netip.Addr{netip.MustParseAddr(aaaa)}})
	if err != nil {
		w.t.Fatal(err)
	}
	return zone
}

// startUpstream serves DNS over TLS on the LAN with the answers of w.handler.
func (w *world) startUpstream() {
	w.t.Helper()
	cert, err := w.ca.Issue(dnstest.CertOptions{Names: []string{upstreamName}, IPs: []netip.Addr{netip.MustParseAddr(netlab.LANAddr4)}})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := dnstest.Config{Handler: w.handler, Certificate: cert, LogQueries: 10000}
	err = w.lan.Do(func() error {
		l, err := dnstest.Listen(netip.MustParseAddrPort("[::]:853"))
		cfg.TLS = []net.Listener{l}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.upstream = w.serve(cfg)
}

// startPlain serves plain DNS at the address of every well-known nameserver.
func (w *world) startPlain() {
	w.t.Helper()
	cfg := dnstest.Config{Handler: w.zone(plain4, plain6)}
	err := w.lan.Do(func() error {
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
		w.t.Fatal(err)
	}
	w.serve(cfg)
}

func (w *world) serve(cfg dnstest.Config) *dnstest.Server {
	w.t.Helper()
	return runServer(w.t, cfg)
}

// capturePlain starts a capture of the wire. The function that it returns stops the
// capture and returns the captured packets to or from port 53.
func (w *world) capturePlain() (c *capture.Capture, plain func() []capture.Packet) {
	w.t.Helper()
	c, err := capture.Start(w.lan.NS, netlab.LANIf)
	if err != nil {
		w.t.Fatal(err)
	}
	return c, func() []capture.Packet {
		packets, err := c.Stop()
		if err != nil {
			w.t.Errorf("capture: %v", err)
		}
		return capture.Plain(packets)
	}
}

// watch captures the wire until the test ends or the capture is stopped. It fails the test
// if it captured a packet to or from port 53.
func (w *world) watch() *capture.Capture {
	w.t.Helper()
	c, plain := w.capturePlain()
	w.t.Cleanup(func() {
		for _, p := range plain() {
			w.t.Errorf("plain DNS packet on the wire: %v", p)
		}
	})
	return c
}

// self prepares a command that runs this test binary as another program in the host.
func (w *world) self(ctx context.Context, as string, args ...string) *netlab.Cmd {
	return w.selfIn(ctx, nil, as, args...)
}

// selfIn is self in a cgroup. A nil cgroup is the one of the test.
func (w *world) selfIn(ctx context.Context, g *netlab.Cgroup, as string, args ...string) *netlab.Cmd {
	cmd := w.host.Command(ctx, g, executable(), args...)
	// By default the race detector delays the exit of every process by a second.
	cmd.Env = append(os.Environ(), selfEnv+"="+as, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// upstreamArgs returns the flags that select the world's upstream.
func (w *world) upstreamArgs() []string {
	return []string{"--upstream", upstreamAddr + "#" + upstreamName, "--ca-file", w.caFile}
}

// exec runs a command sealed and returns its output and exit status.
func (w *world) exec(args ...string) (stdout, stderr string, status int) {
	w.t.Helper()
	return w.sotto(append(append([]string{"exec"}, w.upstreamArgs()...), append([]string{"--"}, args...)...)...)
}

// sotto runs sotto in the host and returns its output and exit status.
func (w *world) sotto(args ...string) (stdout, stderr string, status int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := w.self(ctx, "sotto", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("sotto %v: %v\n%s", args, err, errs.String())
	}
	w.track(cmd)
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// track records the process ID of a sotto for nothingLeft.
func (w *world) track(cmd *netlab.Cmd) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids = append(w.pids, cmd.Process.Pid)
}

// client returns the command line that runs this test binary as one of the Go clients.
func client(name string, args ...string) []string {
	return append([]string{"env", selfEnv + "=" + name, executable()}, args...)
}

// executable returns the path of this test binary.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// resolvConf returns the start of a command line. The program that follows it has a
// resolv.conf with the nameservers.
func (w *world) resolvConf(nameservers ...string) []string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "resolv.conf")
	write(w.t, path, "nameserver "+strings.Join(nameservers, "\nnameserver ")+"\noptions timeout:3 attempts:1\n")
	return []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, path}
}

// process is a sotto that runs in the background of a test.
type process struct {
	cmd  *netlab.Cmd
	done chan struct{} // closed when it has exited
	err  error         // valid when done is closed

	mu  sync.Mutex
	out bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// log returns its output so far.
func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start starts sotto in the background and waits until it has printed ready. If it still
// runs at the end of the test it is killed.
func (w *world) start(ready string, args ...string) *process {
	w.t.Helper()
	return w.startIn(nil, ready, args...)
}

// startIn is start in a cgroup. A nil cgroup is the one of the test.
func (w *world) startIn(g *netlab.Cgroup, ready string, args ...string) *process {
	w.t.Helper()
	p, err := w.launch(g, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.until("sotto to log "+ready, func() bool {
		select {
		case <-p.done:
			w.t.Fatalf("sotto %v exited: %v\n%s", args, p.err, p.log())
		default:
		}
		return strings.Contains(p.log(), ready)
	})
	return p
}

// launch starts sotto in the background, in a cgroup unless that is nil, and does not wait.
func (w *world) launch(g *netlab.Cgroup, args ...string) (*process, error) {
	p := &process{cmd: w.selfIn(context.Background(), g, "sotto", args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = time.Second // a child of a killed sotto may keep its output open
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	w.track(p.cmd)
	go func() {
		if p.err = p.cmd.Wait(); errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil
		}
		close(p.done)
	}()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // fails if it has exited
		<-p.done
		if w.t.Failed() {
			w.t.Logf("sotto %v wrote:\n%s", args, p.log())
		}
	})
	return p, nil
}

// stop stops p by a signal, as a service manager does. It fails the test if p does not
// exit with status 0 in time.
func (w *world) stop(p *process) {
	w.t.Helper()
	w.signal(p, os.Interrupt)
	w.waitExit(p)
}

// signal sends p a signal.
func (w *world) signal(p *process, s os.Signal) {
	w.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		w.t.Errorf("send %v: %v", s, err)
	}
}

// waitExit waits until p has exited. It fails the test if p does not exit in time, or if
// its status is not 0.
func (w *world) waitExit(p *process) {
	w.t.Helper()
	select {
	case <-p.done:
		if p.err != nil {
			w.t.Errorf("sotto exited: %v\n%s", p.err, p.log())
		}
	case <-time.After(20 * time.Second):
		w.t.Error("sotto did not exit within 20 s")
	}
}

// running reports whether p has not exited.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// waitLog waits until p has printed text.
func (w *world) waitLog(p *process, text string) {
	w.t.Helper()
	w.until("sotto to log "+text, func() bool { return strings.Contains(p.log(), text) })
}

// kill kills p, as a crash does, and waits until it has exited.
func (w *world) kill(p *process) {
	w.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	<-p.done
}

// until waits until done reports true. It fails the test after 20 s.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if done() {
			return
		}
	}
	w.t.Fatalf("timed out waiting for %s", what)
}
