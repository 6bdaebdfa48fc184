// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// Load of TestWholeHostLoad.
const (
	loadTime = time.Minute
	loadRate = 300 // queries per second, a third of them in a container; less on a slow machine
)

// sustainable returns a rate of queries that the machine can answer without queueing, at most
// loadRate: half of what one client reaches that sends one query after the other.
func (w *world) sustainable(t *testing.T) int {
	t.Helper()
	const probes = 30
	var conn net.Conn
	if err := w.Host.Do(func() (err error) { conn, err = net.Dial("udp", "8.8.8.8:53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := dns.Client{Timeout: labtest.Patience(10 * time.Second)}
	start := time.Now()
	for n := range probes {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("probe%d.example.", n), dns.TypeA)
		if _, _, err := c.ExchangeWithConn(m, &dns.Conn{Conn: conn}); err != nil {
			t.Fatalf("probe: %v", err)
		}
	}
	return max(2, min(loadRate, int(probes/2/time.Since(start).Seconds())))
}

// TestWholeHostLoad seals the whole host with all its daemons and asks for a minute in all ways: a
// constant rate on the host and in a container, all real programs through three local resolvers, and
// dig directly. No query is lost, none leaves in plain text, and after the stop everything is as
// before.
func TestWholeHostLoad(t *testing.T) {
	wholeHost(t)
	list := clients(t)
	m := machineOfAllKinds
	w := m.on(t)
	b, err := w.Lab.Bridge(t.Context(), w.Host, "br8", 8)
	if err != nil {
		t.Fatal(err)
	}
	container, err := w.Lab.Container(b, "loaded")
	if err != nil {
		t.Fatal(err)
	}
	programs, contained := w.Cgroup("programs"), w.Cgroup("container")
	prefix := m.prefix(t, w)
	before := w.snapshot(t)
	p := w.sealHost(m.servers)
	rate := w.sustainable(t)
	loads := []*e2e.Load{w.StartLoad(programs, rate-rate/3), w.StartLoadOn(container, contained, max(1, rate/3))}

	end := time.Now().Add(loadTime)
	var wg sync.WaitGroup
	digs := 0
	wg.Go(func() { digs = w.digUntil(t, end, programs) })
	sessions := 0
	for ; time.Now().Before(end) || sessions == 0; sessions++ {
		checkClients(t, list, w.in(w.Host, programs), prefix...)
	}
	wg.Wait()
	total := int64(0)
	for _, l := range loads {
		r := l.Stop()
		t.Logf("load: %+v", r)
		if err := r.Complete(); err != nil {
			t.Errorf("load: %v", err)
		}
		total += r.Queries()
	}
	took := time.Since(end.Add(-loadTime)).Round(time.Second)
	if total < int64(rate*int(loadTime.Seconds()))/2 {
		t.Errorf("only %d queries in %s, want %d per second", total, took, rate)
	}
	t.Logf("result: %d queries in %s, %d by dig, %d sessions of %d programs", total, took, digs, sessions, len(list))
	w.stopHost(t, p, before)
}

// digUntil queries new names at nameservers of all kinds until end, and returns their number.
func (w *world) digUntil(t *testing.T, end time.Time, g *netlab.Cgroup) (n int) {
	servers := []string{"8.8.8.8", "2001:db8::53", "1.1.1.1", "127.0.0.53", "2606:4700:4700::1111", "::1", bridge4}
	for ; time.Now().Before(end); n++ {
		server, proto := servers[n%len(servers)], []string{"+notcp", "+tcp"}[n/len(servers)%2]
		if out := w.Dig(w.Host, g, proto, "@"+server, fmt.Sprintf("dig%d.example", n)); !strings.Contains(out, e2e.Sealed4) {
			t.Errorf("dig %s @%s:\n%s", proto, server, out)
		}
	}
	return n
}

// stopHost stops a seal of the whole host and checks that the machine is as before.
func (w *world) stopHost(t *testing.T, p *e2e.Process, before string) {
	t.Helper()
	w.Stop(p)
	w.NothingLeft()
	if after := w.snapshot(t); after != before {
		t.Errorf("before the seal:\n%s\nafter it:\n%s", before, after)
	}
}

// snapshot returns the state of the machine that a seal changes.
func (w *world) snapshot(t *testing.T) string {
	t.Helper()
	const script = `
for what in link addr rule "-6 rule" "-4 route show table all" "-6 route show table all"; do
	echo "== $what"
	ip -o $what | sed 's/ state [A-Z]*//; s/ qlen [0-9]*//; s/ expires [0-9]*sec//; s/ valid_lft .*//' | sort
done
echo "== nft"; nft list ruleset
echo "== files"; find /sys/fs/bpf /run/netns ! -path /sys/fs/bpf/sotto | sort` // that directory stays
	out, err := w.Host.Command(t.Context(), nil, "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("snapshot: %v\n%s", err, out)
	}
	return string(out)
}

// kills is how often TestWholeHostKills kills Sotto.
const kills = 50

// TestWholeHostKills kills the Sotto that seals the whole host and starts it again, many times
// and under load. While none runs queries fail; as soon as one is ready they are answered. The two
// signs of readiness take turns: the exit status of `status --ready`, and the log.
func TestWholeHostKills(t *testing.T) {
	wholeHost(t)
	w := newWorld(t)
	w.bridge(t)
	before := w.snapshot(t)
	wire := w.Watch()
	p := w.sealHost([]string{"8.8.8.8"})
	g := w.Cgroup("programs")
	load := w.StartLoad(g, 20)
	for n := range kills {
		w.Kill(p)
		if out := w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", "killed.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("kill %d: answered although no Sotto runs:\n%s", n, out)
		}
		if n%2 == 0 {
			p = w.sealHost([]string{"8.8.8.8"})
		} else {
			p = w.sealReady(t)
		}
		for i, server := range []string{"8.8.8.8", "2001:db8::53"} {
			out := w.Dig(w.Host, g, []string{"+notcp", "+tcp"}[(n/2+i)%2], "@"+server, fmt.Sprintf("again%d.example", n))
			if !strings.Contains(out, e2e.Sealed4) {
				t.Errorf("start %d: not answered:\n%s\nlog:\n%s", n, out, p.Log())
			}
		}
	}
	// Queries were lost and connections reset while none ran. Every answer is the upstream's.
	if r := load.Stop(); r.Wrong > 0 || r.Queries() < kills {
		t.Errorf("load: %+v", r)
	}
	w.StopWatching(wire)
	w.stopHost(t, p, before)
}

// sealReady seals the whole host and waits until `status --ready` succeeds.
func (w *world) sealReady(t *testing.T) *e2e.Process {
	t.Helper()
	p, err := w.Launch(nil, w.RunArgs()...)
	if err != nil {
		t.Fatal(err)
	}
	w.Until("sotto status --ready", func() bool {
		if !p.Running() {
			t.Fatalf("sotto exited: %v\n%s", p.Err, p.Log())
		}
		return w.Command(t.Context(), nil, "status", "--ready").Run() == nil
	})
	return p
}
