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
)

// zoneServer starts an upstream with a zone, and returns the flags that name it.
func zoneServer(t *testing.T) []string {
	t.Helper()
	flags, _, _ := switchedServer(t)
	return flags
}

// switchedServer is zoneServer with the switch by which it becomes another one, and the
// zone for its way back.
func switchedServer(t *testing.T) (flags []string, handler *dnstest.Switch, zone *dnstest.Zone) {
	t.Helper()
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	write(t, caFile, string(ca.PEM()))
	if zone, err = dnstest.NewZone(dnstest.ZoneConfig{}); err != nil {
		t.Fatal(err)
	}
	handler = dnstest.NewSwitch(zone)
	_, upstream := startUpstream(t, ca, handler)
	return []string{"--ca-file", caFile, "--upstream", upstream + "#" + upstreamName}, handler, zone
}

// tally is how a client fared.
type tally struct {
	asked, tries int
	worst        time.Duration // from the first try to the answer
}

func (c *tally) String() string {
	return fmt.Sprintf("%d of %d tries were answered, the slowest after %v", c.asked, c.tries, c.worst.Round(time.Millisecond))
}

// ask asks for one name until it has its answer: UDP may lose a query in a crowd, and a
// crowded machine be late. To be refused for want of room is an error, as is to have no
// answer in ten tries.
func (c *tally) ask(cl *dns.Client, at, name string) error {
	began := time.Now()
	c.asked++
	for range 10 {
		c.tries++
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.SetEdns0(1232, false)
		r, _, err := cl.Exchange(m, at)
		switch {
		case err != nil:
		case len(r.Answer) == 1:
			c.worst = max(c.worst, time.Since(began))
			return nil
		case strings.Contains(r.String(), "overloaded"):
			return fmt.Errorf("%s: %v", name, r)
		}
	}
	return fmt.Errorf("%s: no answer in ten tries", name)
}

// from is a client at one loopback address.
func from(proto, addr string) *dns.Client {
	d := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(addr)}, Timeout: 2 * time.Second}
	if proto == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(addr)}
	}
	return &dns.Client{Net: proto, Dialer: d, Timeout: 2 * time.Second}
}

// ports are UDP sockets at one address, connected to a server, from which queries are
// sent and nothing is read.
func ports(t *testing.T, addr, at string, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := from("udp", addr).Dialer.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		conns[i] = c
	}
	return conns
}

// floodFrom sends a query from each of the sockets in turn, at most rate a second, until
// it is told to end; every fourth for what is cached, the others for new names that the
// upstream never answers.
func floodFrom(conns []net.Conn, rate int, end <-chan struct{}) (sent int) {
	cached := packed(1, "cached.example.")
	for began := time.Now(); running(end); sent++ {
		if early := time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(rate))); early > time.Millisecond {
			time.Sleep(early)
		}
		query := cached
		if sent%4 != 0 {
			query = packed(uint16(sent), fmt.Sprintf("silent%d.example.", sent))
		}
		_, _ = conns[sent%len(conns)].Write(query) // a full buffer loses it
	}
	return sent
}

// TestPorts: who floods from two thousand ports, with names that the upstream never
// answers, and with what is cached, is one client. Others are answered, and memory is
// bounded.
func TestPorts(t *testing.T) {
	addr, pid := startChild(t, zoneServer(t)...)
	victim := from("udp", "127.0.0.3")
	var before, during tally
	for i := range 20 {
		if err := before.ask(victim, addr, fmt.Sprintf("before%d.example.", i)); err != nil {
			t.Fatal(err)
		}
	}
	conns := ports(t, "127.0.0.2", addr, 2000)
	end, done := make(chan struct{}), make(chan int)
	go func() { done <- floodFrom(conns, 20_000, end) }()
	length := 8 * time.Second
	if testing.Short() {
		length = 4 * time.Second
	}
	for i, until := 0, time.Now().Add(length); time.Now().Before(until); i++ {
		if err := during.ask(victim, addr, fmt.Sprintf("during%d.example.", i)); err != nil {
			t.Errorf("while another floods: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(end)
	peak := peakMemory(t, pid)
	t.Logf("before: %v; with %d queries a second from 2000 ports: %v; at most %d MiB resident",
		&before, <-done/int(length.Seconds()), &during, peak>>20)
	if limit := int64(200 << 20); !raceDetector && peak > limit {
		t.Errorf("%d MiB were resident, want at most %d", peak>>20, limit>>20)
	}
}

// established is how many of the connections to addr the kernel takes for open, at
// their server's end.
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

// TestIdleConnections: ten thousand connections on which nothing is asked, of ten
// clients. Others connect and are answered all the while, and who asks now and then
// keeps its connection; no more are kept than the limit says, at little cost each.
func TestIdleConnections(t *testing.T) {
	const most, clients = 4096, 10
	n := 10_000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if room := int(min(files.Cur, 1<<20)) - 500; room < n {
		t.Logf("only %d connections, for want of open files", room)
		n = room
	}
	addr, pid := startChild(t, zoneServer(t)...)
	steady, err := from("tcp", "127.0.0.3").Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer steady.Close()
	_ = steady.SetDeadline(time.Now().Add(2 * time.Minute))
	var others tally
	askAll := func(i int) {
		t.Helper()
		if err := others.ask(from("tcp", "127.0.0.4"), addr, fmt.Sprintf("other%d.example.", i)); err != nil {
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
	before := peakMemory(t, pid)
	for i := range n {
		c, err := from("tcp", fmt.Sprintf("127.0.2.%d", 1+i%clients)).Dialer.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { c.Close() })
		if i%500 == 0 {
			askAll(i)
		}
	}
	eventually(t, "no more connections than the limit", func() bool { return established(t, addr) <= most })
	kept, each := established(t, addr), (peakMemory(t, pid)-before)/most
	t.Logf("of %d idle connections %d are kept, at %d bytes each; meanwhile %v", n, kept, each, &others)
	if n > most && kept < most/2 {
		t.Errorf("%d connections are kept, though there is room for %d", kept, most)
	}
	if !raceDetector && each > 32<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
}
