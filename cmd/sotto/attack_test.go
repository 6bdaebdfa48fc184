// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/e2e/client"
)

// zoneServer starts an upstream with a zone and returns the flags that select it.
func zoneServer(t *testing.T) []string {
	t.Helper()
	flags, _, _ := switchedServer(t)
	return flags
}

// switchedServer is zoneServer with a handler that can be replaced, and the zone that it
// starts with.
func switchedServer(t *testing.T) (flags []string, handler *dnstest.Switch, zone *dnstest.Zone) {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	if zone, err = dnstest.NewZone(dnstest.ZoneConfig{}); err != nil {
		t.Fatal(err)
	}
	handler = dnstest.NewSwitch(zone)
	_, upstream := e2e.ServeLoopback(t, ca, handler)
	return []string{"--ca-file", caFile, "--upstream", upstream + "#" + e2e.UpstreamName}, handler, zone
}

// ports returns UDP sockets at one address that are connected to a server, and from which
// replies are not read.
func ports(t *testing.T, addr, at string, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := client.From("udp", addr).Dialer.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c
	}
	return conns
}

// TestFloodFromManyPorts floods from two thousand ports of one client, with cached names and
// with names that the upstream never answers. Other clients are answered, and memory is
// bounded.
func TestFloodFromManyPorts(t *testing.T) {
	addr, pid := startChild(t, zoneServer(t)...)
	victim := client.From("udp", "127.0.0.3")
	var before, during client.Tally
	for i := range 20 {
		if err := before.Ask(victim, addr, fmt.Sprintf("before%d.example.", i)); err != nil {
			t.Fatal(err)
		}
	}
	rate := 20_000
	if e2e.RaceDetector {
		rate = 2_000 // the same load for a program that is ten times slower
	}
	conns := ports(t, "127.0.0.2", addr, 2000)
	stop, done := make(chan struct{}), make(chan int)
	go func() { done <- client.Flood(conns, rate, stop) }()
	length := 8 * time.Second
	if testing.Short() {
		length = 4 * time.Second
	}
	for i, until := 0, time.Now().Add(length); time.Now().Before(until); i++ {
		if err := during.Ask(victim, addr, fmt.Sprintf("during%d.example.", i)); err != nil {
			t.Errorf("during the flood: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	peak := e2e.PeakMemory(t, pid)
	t.Logf("before: %v; with %d queries per second from 2000 ports: %v; at most %d MiB resident",
		&before, <-done/int(length.Seconds()), &during, peak>>20)
	if limit := int64(200 << 20); !e2e.RaceDetector && peak > limit {
		t.Errorf("%d MiB were resident, want at most %d", peak>>20, limit>>20)
	}
}

// established returns the number of connections to addr that are established at the server's
// end.
func established(t *testing.T, addr string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("0100007F:%04X", number)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == own && f[3] == "01" {
			n++
		}
	}
	return n
}

// TestIdleConnections opens ten thousand idle connections from ten clients. Other clients can
// connect and are answered, and a connection that is used stays open. The number of
// connections is limited, and the memory of each is small.
func TestIdleConnections(t *testing.T) {
	const most, clients = 4096, 10
	n := 10_000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if room := int(min(files.Cur, 1<<20)) - 500; room < n {
		t.Logf("only %d connections: the limit of open files is low", room)
		n = room
	}
	addr, pid := startChild(t, zoneServer(t)...)
	steady, err := client.From("tcp", "127.0.0.3").Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer steady.Close()
	_ = steady.SetDeadline(time.Now().Add(2 * time.Minute))
	var others client.Tally
	askAll := func(i int) {
		t.Helper()
		if err := others.Ask(client.From("tcp", "127.0.0.4"), addr, fmt.Sprintf("other%d.example.", i)); err != nil {
			t.Errorf("after %d idle connections: %v", i, err)
		}
		if err := steady.WriteMsg(new(dns.Msg).SetQuestion(fmt.Sprintf("steady%d.example.", i), dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if r, err := steady.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Fatalf("after %d idle connections, on one that is used: %v, %v", i, r, err)
		}
	}
	askAll(-1)
	before := e2e.PeakMemory(t, pid)
	for i := range n {
		c, err := client.From("tcp", fmt.Sprintf("127.0.2.%d", 1+i%clients)).Dialer.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { c.Close() })
		if i%500 == 0 {
			askAll(i)
		}
	}
	e2e.Eventually(t, "no more connections than the limit", func() bool { return established(t, addr) <= most })
	kept, each := established(t, addr), (e2e.PeakMemory(t, pid)-before)/most
	t.Logf("of %d idle connections %d are kept, at %d bytes each; meanwhile %v", n, kept, each, &others)
	if n > most && kept < most/2 {
		t.Errorf("%d connections are kept, though there is room for %d", kept, most)
	}
	if !e2e.RaceDetector && each > 32<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
}
