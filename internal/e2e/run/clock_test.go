// SPDX-License-Identifier: Apache-2.0

package run

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// TestClockAtBoot follows the recipe for a wrong clock at boot: the upstream's certificate is not yet
// valid, only the names of the NTP servers are resolved, in plain DNS, and when the clock
// is right all others are, over TLS and without a restart.
func TestClockAtBoot(t *testing.T) {
	w := newWorld(t)
	validSince := func(at time.Time) {
		cert, err := w.CA.Issue(dnstest.CertOptions{Names: []string{e2e.UpstreamName}, NotBefore: at})
		if err != nil {
			t.Fatal(err)
		}
		w.Upstream.SetCertificate(cert)
	}
	validSince(time.Now().Add(time.Hour))
	_, plain := w.CapturePlain()
	g := w.Cgroup("workload")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "[[rule]]\nname = [\"pool.ntp.org\"]\nuse = \"plain\"\n")
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--config", config)...)
	// Not before the start, which takes long on a busy machine.
	validFrom := time.Now().Add(labtest.Patience(8 * time.Second)).Truncate(time.Second)
	validSince(validFrom)
	ask := func(name string) string { return w.Dig(w.Host, g, "+tries=1", "@8.8.8.8", name) }

	early := func() bool { return time.Now().Before(validFrom) }
	for i := 0; early(); i++ {
		if out := ask("www.example"); early() && (!strings.Contains(out, "status: SERVFAIL") || !strings.Contains(out, "clock right?")) {
			t.Errorf("before the clock is set: want SERVFAIL with the reason\n%s", out)
		}
		if out := ask("0.debian.pool.ntp.org"); !strings.Contains(out, e2e.Plain4) {
			t.Errorf("an NTP server's name: no %s in\n%s", e2e.Plain4, out)
		}
		if n := w.Upstream.Stats().Queries(); n != 0 && early() {
			t.Errorf("%d queries reached a server that was not authenticated", n)
		}
		if i == 0 && !early() {
			t.Fatal("the first queries took too long")
		}
		time.Sleep(500 * time.Millisecond)
	}
	set := time.Now()
	w.Until("other names to be resolved", func() bool { return strings.Contains(ask("www.example"), e2e.Sealed4) })
	if waited := time.Since(set); waited > labtest.Patience(3*time.Second) {
		t.Errorf("names were resolved %v after the clock was right", waited)
	}
	w.Upstream.EndConns(dnstest.Close)
	if out := ask("www2.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("over another connection: no %s in\n%s", e2e.Sealed4, out)
	}
	if out := ask("1.debian.pool.ntp.org"); !strings.Contains(out, e2e.Plain4) {
		t.Errorf("an NTP server's name: no %s in\n%s", e2e.Plain4, out)
	}
	w.Stop(p)
	if log := p.Log(); !strings.Contains(log, "upstream failed") || !strings.Contains(log, "upstream recovered") {
		t.Errorf("the log does not contain the failure and the recovery:\n%s", log)
	}
	packets := plain()
	for _, packet := range packets {
		if !bytes.Contains(packet.Payload, []byte("\x04pool\x03ntp\x03org")) {
			t.Errorf("a plain DNS packet for another name: %v", packet)
		}
	}
	if len(packets) < 4 {
		t.Errorf("%d plain DNS packets were captured: want those for the NTP servers' names", len(packets))
	}
	w.NothingLeft()
}
