// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder"
	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/e2e/client"
)

// startChild runs `sotto serve` in a child process until the test ends. It returns its
// address and process ID.
func startChild(t *testing.T, args ...string) (addr string, pid int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, self().Path, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), self().Env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ready, read := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(read)
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			log.Write(append(sc.Bytes(), '\n'))
			if m := answering.FindStringSubmatch(sc.Text()); m != nil {
				ready <- m[1]
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		var exit *exec.ExitError // nil if the status is 0, also after the interrupt
		if err := cmd.Wait(); errors.As(err, &exit) {
			t.Errorf("serve: %v", err)
		}
		if t.Failed() {
			t.Logf("serve wrote:\n%s", log.String())
		}
	})
	select {
	case addr = <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("serve does not start")
	}
	return addr, cmd.Process.Pid
}

// flood sends queries for new names at the rate until stop is closed. It counts and checks
// the refusals over capacity.
func flood(t *testing.T, addr string, id, rate int, stop <-chan struct{}, sent, refused *atomic.Int64) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	go func() { // returns when c is closed
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if !bytes.Contains(b[:n], []byte("overloaded")) {
				continue
			}
			if refused.Add(1)%1000 == 1 {
				checkRefusal(t, b[:n])
			}
		}
	}()
	m := new(dns.Msg).SetQuestion("n0000000000.flood.example.", dns.TypeA)
	m.SetEdns0(1232, false)
	query, err := m.Pack()
	if err != nil {
		t.Error(err)
		return
	}
	start := time.Now()
	for n := 0; client.Running(stop); n++ {
		if early := time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(rate))); early > time.Millisecond {
			time.Sleep(early)
		}
		binary.BigEndian.PutUint16(query, uint16(n))
		copy(query[14:], fmt.Sprintf("%02d%08d", id, n))
		if _, err := c.Write(query); err == nil {
			sent.Add(1)
		}
	}
}

// checkRefusal checks that a reply is SERVFAIL with an Extended DNS Error of code 0.
func checkRefusal(t *testing.T, reply []byte) {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil || m.Rcode != dns.RcodeServerFailure || m.IsEdns0() == nil {
		t.Errorf("a refusal: %v, %v", m, err)
		return
	}
	for _, o := range m.IsEdns0().Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok && e.InfoCode == dns.ExtendedErrorCodeOther {
			return
		}
	}
	t.Errorf("a refusal without EDE 0: %v", m)
}

// silentHandler answers no query. It records the time of the first query for each name.
type silentHandler struct {
	start time.Time
	mu    sync.Mutex
	names map[string]time.Duration // since start
}

func newSilentHandler() *silentHandler {
	return &silentHandler{start: time.Now(), names: map[string]time.Duration{}}
}

func (h *silentHandler) Answer(r *dnstest.Request) dnstest.Answer {
	m := new(dns.Msg)
	if err := m.Unpack(r.Query); err == nil && len(m.Question) == 1 {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, again := h.names[m.Question[0].Name]; !again {
			h.names[m.Question[0].Name] = time.Since(h.start)
		}
	}
	return dnstest.Answer{}
}

// asked returns the number of names that were queried within a time.
func (h *silentHandler) asked(within time.Duration) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, at := range h.names {
		if at <= within {
			n++
		}
	}
	return n
}

// isAnswer reports whether a reply is the zone's answer.
func isAnswer(r *dns.Msg) bool { return r.Rcode == dns.RcodeSuccess && len(r.Answer) == 1 }

// isRefusal reports whether a reply is a refusal over capacity, and checks it.
func isRefusal(t *testing.T, r *dns.Msg) bool {
	t.Helper()
	b, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("overloaded")) {
		return false
	}
	checkRefusal(t, b)
	return true
}

// overloaded is a server that is flooded, and a client that queries it meanwhile.
type overloaded struct {
	t    *testing.T
	addr string

	sent, refused atomic.Int64 // of the floods
}

// flood floods the server until the function that it returns is called.
func (o *overloaded) flood() (stop func()) {
	rate := 50_000
	if e2e.RaceDetector {
		rate = 5_000 // the same load for a program that is ten times slower
	}
	done := make(chan struct{})
	var floods sync.WaitGroup
	for i := range 8 {
		floods.Go(func() { flood(o.t, o.addr, i, rate/8, done, &o.sent, &o.refused) })
	}
	return sync.OnceFunc(func() { close(done); floods.Wait() })
}

// ask sends a query over UDP. Under load it may be lost, which is an error.
func (o *overloaded) ask(name string) (*dns.Msg, error) {
	c := dns.Client{Timeout: time.Second}
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, false)
	r, _, err := c.Exchange(m, o.addr)
	return r, err
}

// askTCP queries all names at once over one connection, and returns as many replies.
func (o *overloaded) askTCP(names ...string) (replies []*dns.Msg) {
	o.t.Helper()
	c, err := dns.DialTimeout("tcp", o.addr, 30*time.Second)
	if err != nil {
		o.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	for _, name := range names {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.SetEdns0(1232, false)
		if err := c.WriteMsg(m); err != nil {
			o.t.Fatal(err)
		}
	}
	for range names {
		r, err := c.ReadMsg()
		if err != nil {
			o.t.Fatalf("over TCP %d of %d were answered: %v", len(replies), len(names), err)
		}
		replies = append(replies, r)
	}
	return replies
}

// cached queries a cached name, over TCP, which has to be answered, and over UDP. It reports
// whether it was answered over UDP.
func (o *overloaded) cached() bool {
	o.t.Helper()
	if r := o.askTCP("cached.example."); !isAnswer(r[0]) {
		o.t.Errorf("a cached name was answered with %v", r[0])
	}
	r, err := o.ask("cached.example.")
	if err == nil && !isAnswer(r) {
		o.t.Errorf("a cached name was answered with %v", r)
	}
	return err == nil
}

// refusals queries count new names over TCP, at once, and count over UDP, and returns how many
// were refused. Each query has to get a reply.
func (o *overloaded) refusals(round, count int) (n int) {
	o.t.Helper()
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("tcp%d-%d.example.", round, i)
	}
	for _, r := range o.askTCP(names...) {
		if isRefusal(o.t, r) {
			n++
		} else if r.Rcode != dns.RcodeServerFailure {
			o.t.Errorf("without an upstream: %v", r)
		}
	}
	for i := range count {
		name, replied := fmt.Sprintf("udp%d-%d.example.", round, i), false
		for try := 0; try < 40 && !replied; try++ {
			r, err := o.ask(name)
			if replied = err == nil; replied && isRefusal(o.t, r) {
				n++
			}
		}
		if !replied {
			o.t.Errorf("%s: no reply in forty tries", name)
		}
	}
	return n
}

// TestHungUpstream floods a server whose upstream does not answer, with up to 50,000 queries
// per second. One client has at most its share of the queries in flight, and memory is
// bounded. Queries over the share are refused, cached names are answered, and all queries are
// answered again when the upstream answers.
func TestHungUpstream(t *testing.T) {
	flags, handler, zone := switchedServer(t)
	addr, pid := startChild(t, flags...)
	o := &overloaded{t: t, addr: addr}
	if !isAnswer(o.askTCP("cached.example.")[0]) {
		t.Fatal("the server does not answer")
	}

	silent := newSilentHandler()
	handler.Set(silent)
	stop := o.flood()
	defer stop()
	e2e.Eventually(t, "a refusal", func() bool { return o.refused.Load() > 0 })
	hits, refused := 0, 0
	round, tries, count := 0, 0, 10
	for ; round < 5 || time.Since(silent.start) < 8*time.Second; round++ {
		for range 10 {
			if tries++; o.cached() {
				hits++
			}
			time.Sleep(20 * time.Millisecond)
		}
		refused += o.refusals(round, count)
	}
	asked, lasted, peak := silent.asked(time.Hour), time.Since(silent.start), e2e.PeakMemory(t, pid)
	t.Logf("%.0f queries per second; %d in flight, %d refused; %d of %d cached answers and %d of %d refusals meanwhile; at most %d MiB resident",
		float64(o.sent.Load())/lasted.Seconds(), asked, o.refused.Load(), hits, tries, refused, 2*round*count, peak>>20)
	// When a query times out, another one may be sent. A client may have half of the queries
	// in flight.
	if most := int(lasted/flightTime+2) * forwarder.DefaultMaxMisses / 2; asked > most {
		t.Errorf("the upstream received queries for %d names within %v, want at most %d", asked, lasted, most)
	}
	if limit := int64(200 << 20); !e2e.RaceDetector && peak > limit {
		t.Errorf("%d MiB were resident, want at most %d", peak>>20, limit>>20)
	}
	if hits == 0 {
		t.Error("no cached name was answered over UDP")
	}
	if refused < round*count {
		t.Errorf("%d of %d queries over the share were refused", refused, 2*round*count)
	}

	handler.Set(zone)
	o.recovers(stop)
	// All capacity is free again: another flood has as many queries in flight.
	again := newSilentHandler()
	handler.Set(again)
	defer o.flood()()
	time.Sleep(flightTime)
	if first, second := silent.asked(flightTime), again.asked(flightTime); second < first*2/3 {
		t.Errorf("%d queries in flight in another flood, %d in the first", second, first)
	}
}

// flightTime is less than the time that the forwarder waits for an upstream.
const flightTime = 3 * time.Second

// recovers waits for an answer after the upstream answers again, during the flood, and then
// without it until all queries are answered.
func (o *overloaded) recovers(stop func()) {
	o.t.Helper()
	back, tries := time.Now(), 0
	limit := time.AfterFunc(5*time.Second, stop) // for a machine that is too slow for both
	defer limit.Stop()
	e2e.Eventually(o.t, "an answer", func() bool {
		tries++
		r, err := o.ask(fmt.Sprintf("again-%d.example.", tries))
		return err == nil && isAnswer(r)
	})
	o.t.Logf("the first answer came %v after the upstream answered again", time.Since(back).Round(time.Millisecond))
	stop()
	names := make([]string, 100)
	e2e.Eventually(o.t, "every answer", func() bool {
		for i := range names {
			tries++
			names[i] = fmt.Sprintf("again-%d.example.", tries)
		}
		return !slices.ContainsFunc(o.askTCP(names...), func(r *dns.Msg) bool { return !isAnswer(r) })
	})
	time.Sleep(forwarder.DefaultTimeout) // for the queries that the upstream never answered
}
