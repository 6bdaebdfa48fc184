// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
)

// versions is the client "versions" in the background of a test.
type versions struct {
	w   *world
	cmd *netlab.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	err e2e.Process // collects its standard error
}

func (w *world) startVersions(name string, servers ...string) *versions {
	w.T.Helper()
	line := e2e.Client("versions", append([]string{name}, servers...)...)
	v := &versions{w: w, cmd: w.Host.Command(context.Background(), w.group, line[0], line[1:]...)}
	v.cmd.Stderr = &v.err
	in, err := v.cmd.StdinPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		w.T.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		w.T.Fatal(err)
	}
	v.in, v.out = in, bufio.NewScanner(out)
	w.T.Cleanup(func() { _ = v.cmd.Process.Kill() }) // fails if it has exited
	return v
}

// expect sets the only address that replies may have from now on, or "any". It returns the number of
// replies so far.
func (v *versions) expect(address string) (replies int) {
	v.w.T.Helper()
	if _, err := fmt.Fprintln(v.in, address); err != nil {
		v.w.T.Fatal(err)
	}
	if !v.out.Scan() {
		v.w.T.Fatal("the client has exited")
	}
	if _, err := fmt.Sscanf(v.out.Text(), "ok %d", &replies); err != nil {
		v.w.T.Fatal(err)
	}
	return replies
}

// settled waits until the kernel has given many answers again. From now on every reply must have the address.
func (v *versions) settled(what, address string) {
	v.w.T.Helper()
	before, kernel := v.expect(address), v.w.answered()
	v.w.Until("the kernel to answer "+what, func() bool { return v.w.answered() > kernel+500 })
	v.w.T.Logf("%s: %d replies, of which the kernel gave %d", what, v.expect(address)-before, v.w.answered()-kernel)
}

// stop ends the client, and fails the test if a reply was not as expected.
func (v *versions) stop() {
	v.w.T.Helper()
	_ = v.in.Close()
	for v.out.Scan() {
		v.w.T.Log(v.out.Text())
	}
	if err := v.cmd.Wait(); err != nil {
		v.w.T.Errorf("%v\n%s", err, v.err.Log())
	}
}

// serveVersions serves two more upstreams, whose answers are 192.0.2.11 and 192.0.2.12, at ports 8531
// and 8532, and returns the lines of their groups "v1" and "v2".
func (w *world) serveVersions() (groups string) {
	w.T.Helper()
	for n := 1; n <= 2; n++ {
		cert, err := w.CA.Issue(dnstest.CertOptions{Names: []string{e2e.UpstreamName}, IPs: []netip.Addr{netip.MustParseAddr(netlab.LANAddr4)}})
		if err != nil {
			w.T.Fatal(err)
		}
		cfg := dnstest.Config{Handler: w.Zone(version(n), "2001:db8::1"), Certificate: cert}
		err = w.LAN.Do(func() error {
			l, err := dnstest.Listen(netip.MustParseAddrPort(fmt.Sprintf("[::]:%d", 8530+n)))
			cfg.TLS = []net.Listener{l}
			return err
		})
		if err != nil {
			w.T.Fatal(err)
		}
		e2e.Serve(w.T, cfg)
		groups += fmt.Sprintf("[[group]]\nname = \"v%d\"\nupstream = [\"%s:%d#%s\"]\nca-file = %q\n", n, netlab.LANAddr4, 8530+n, e2e.UpstreamName, w.CAFile)
	}
	return groups
}

func version(n int) string { return fmt.Sprintf("192.0.2.1%d", n) }

// TestCoherence changes what decides on an answer, under load: rules, the cache, the process. After
// each change was acknowledged, no reply is from before it.
func TestCoherence(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	groups := w.serveVersions()
	rule := func(n int) {
		w.configure(groups + fmt.Sprintf("[[rule]]\nname = \"versioned.example\"\nuse = \"v%d\"\n", n))
	}
	rule(1)
	p := w.seal()
	v := w.startVersions("versioned.example", "8.8.8.8", "2001:4860:4860::8888")
	v.settled("at the start", version(1))
	for n := range 3 {
		v.expect("any")
		rule(1 + (n+1)%2)
		if stdout, stderr, status := w.Sotto("reload"); status != 0 {
			t.Fatalf("reload: %q, %q", stdout, stderr)
		}
		v.settled("after a reload", version(1+(n+1)%2))
	}
	w.checkFlush(v)

	v.expect("any")
	rule(2)
	p = w.Replace(p, w.args()...)
	v.settled("after a takeover", version(2))

	w.Kill(p)
	before := v.expect(version(2))
	w.Until("the kernel to answer without a process", func() bool { return v.expect(version(2)) > before+500 })
	v.expect("any")
	rule(1)
	p = w.seal()
	v.settled("after a crash", version(1))
	v.stop()
	w.Stop(p)
	w.NothingLeft()
}

// checkFlush changes the upstream's answer and flushes the cache. It leaves the rule for version 1.
func (w *world) checkFlush(v *versions) {
	w.T.Helper()
	v.expect("any")
	w.configure()
	if _, stderr, status := w.Sotto("reload"); status != 0 {
		w.T.Fatalf("reload: %q", stderr)
	}
	v.settled("without a rule", e2e.Sealed4)
	for n := range 2 {
		v.expect("any")
		address := fmt.Sprintf("192.0.2.%d", 100+n)
		w.Handler.Set(w.Zone(address, "2001:db8::1"))
		time.Sleep(50 * time.Millisecond) // replies that were on their way
		if _, stderr, status := w.Sotto("cache", "flush", "versioned.example"); status != 0 {
			w.T.Fatalf("flush: %s", stderr)
		}
		v.settled("after a flush", address)
	}
}
