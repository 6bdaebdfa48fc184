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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder"
	"sotto/internal/dnstest"
)

// startChild runs `sotto serve` as a process of its own until the test ends. It returns
// its address and its process.
func startChild(t *testing.T, args ...string) (addr string, pid int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, executable(), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), selfEnv+"=sotto")
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
		var ended *exec.ExitError // nil for a clean end, also of a process that was told to end
		if err := cmd.Wait(); errors.As(err, &ended) {
			t.Errorf("serve: %v", err)
		}
		if t.Failed() {
			t.Logf("serve wrote:\n%s", log.String())
		}
	})
	select {
	case addr = <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("serve does not answer")
	}
	return addr, cmd.Process.Pid
}

// peakMemory is the most that a process had resident, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// flood sends queries for names that never were, at the rate, until it is told to end,
// and counts the refusals for overload, which it checks.
func flood(t *testing.T, addr string, id, rate int, end <-chan struct{}, sent, refused *atomic.Int64) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	go func() { // ends when c is closed
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
	began := time.Now()
	for n := 0; running(end); n++ {
		if early := time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))); early > time.Millisecond {
			time.Sleep(early)
		}
		binary.BigEndian.PutUint16(query, uint16(n))
		copy(query[14:], fmt.Sprintf("%02d%08d", id, n))
		if _, err := c.Write(query); err == nil {
			sent.Add(1)
		}
	}
}

// checkRefusal: SERVFAIL, with an Extended DNS Error of code 0.
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

// hung takes queries and answers none. It keeps their names, with when each was asked.
type hung struct {
	began time.Time
	mu    sync.Mutex
	names map[string]time.Duration
}

func newHung() *hung { return &hung{began: time.Now(), names: map[string]time.Duration{}} }

func (h *hung) Answer(r *dnstest.Request) dnstest.Answer {
	m := new(dns.Msg)
	if err := m.Unpack(r.Query); err == nil && len(m.Question) == 1 {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, again := h.names[m.Question[0].Name]; !again {
			h.names[m.Question[0].Name] = time.Since(h.began)
		}
	}
	return dnstest.Answer{}
}

// asked is how many names were asked for within a time.
func (h *hung) asked(within time.Duration) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, at := range h.names {
		if at <= within {
			n++
		}
	}
	return n
}

// isGood reports whether a reply is the zone's answer.
func isGood(r *dns.Msg) bool { return r.Rcode == dns.RcodeSuccess && len(r.Answer) == 1 }

// isRefusal reports whether a reply refuses for overload, and checks it.
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

// overloaded is a server that is flooded, and a client that asks it meanwhile.
type overloaded struct {
	t    *testing.T
	addr string

	sent, refused atomic.Int64 // of the floods
}

// flood has queries sent as fast as is allowed, until the function that it returns is
// called.
func (o *overloaded) flood() (stop func()) {
	rate := 50_000
	if raceDetector {
		rate = 5_000 // as much of a load for a program that is ten times slower
	}
	end := make(chan struct{})
	var floods sync.WaitGroup
	for i := range 8 {
		floods.Go(func() { flood(o.t, o.addr, i, rate/8, end, &o.sent, &o.refused) })
	}
	return sync.OnceFunc(func() { close(end); floods.Wait() })
}

// ask asks over UDP, which may lose a query in a crowd: then there is an error.
func (o *overloaded) ask(name string) (*dns.Msg, error) {
	c := dns.Client{Timeout: time.Second}
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, false)
	r, _, err := c.Exchange(m, o.addr)
	return r, err
}

// askTCP asks all names at once over one connection, and returns as many replies.
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

// cached asks for what is cached. That is answered, over TCP each time. It reports whether
// it was over UDP.
func (o *overloaded) cached() bool {
	o.t.Helper()
	if r := o.askTCP("cached.example."); !isGood(r[0]) {
		o.t.Errorf("what is cached was answered with %v", r[0])
	}
	r, err := o.ask("cached.example.")
	if err == nil && !isGood(r) {
		o.t.Errorf("what is cached was answered with %v", r)
	}
	return err == nil
}

// refusals asks for new names, some at once, and returns how many of them were refused.
// Each is told something.
func (o *overloaded) refusals(round, some int) (n int) {
	o.t.Helper()
	names := make([]string, some)
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
	for i := range some {
		name, told := fmt.Sprintf("udp%d-%d.example.", round, i), false
		for try := 0; try < 10 && !told; try++ {
			r, err := o.ask(name)
			if told = err == nil; told && isRefusal(o.t, r) {
				n++
			}
		}
		if !told {
			o.t.Errorf("%s: no reply in ten tries", name)
		}
	}
	return n
}

// TestHungUpstream: an upstream that takes queries and answers none, with as many
// queries coming in as the machine can send, up to 50,000 a second: no more than one
// client's share of what may be in flight is, and memory is bounded; each that is one too
// many is told so, what is cached is answered, and all is well again when the upstream is.
func TestHungUpstream(t *testing.T) {
	flags, handler, zone := switchedServer(t)
	addr, pid := startChild(t, flags...)
	o := &overloaded{t: t, addr: addr}
	if !isGood(o.askTCP("cached.example.")[0]) {
		t.Fatal("it does not answer")
	}

	silent := newHung()
	handler.Set(silent)
	stop := o.flood()
	defer stop()
	eventually(t, "a refusal", func() bool { return o.refused.Load() > 0 })
	hits, told := 0, 0
	round, tries, some := 0, 0, 10
	for ; round < 5 || time.Since(silent.began) < 8*time.Second; round++ {
		for range 10 {
			if tries++; o.cached() {
				hits++
			}
			time.Sleep(20 * time.Millisecond)
		}
		told += o.refusals(round, some)
	}
	asked, lasted, peak := silent.asked(time.Hour), time.Since(silent.began), peakMemory(t, pid)
	t.Logf("%.0f queries a second; %d asked, %d refused; %d of %d cached answers and %d of %d refusals meanwhile; at most %d MiB resident",
		float64(o.sent.Load())/lasted.Seconds(), asked, o.refused.Load(), hits, tries, told, 2*round*some, peak>>20)
	// A flight ends when its time is over, and then another one may begin. One client alone
	// may have half of them all.
	if most := int(lasted/flightTime+2) * forwarder.DefaultMaxMisses / 2; asked > most {
		t.Errorf("the upstream was asked for %d names within %v, want at most %d", asked, lasted, most)
	}
	if limit := int64(200 << 20); !raceDetector && peak > limit {
		t.Errorf("%d MiB were resident, want at most %d", peak>>20, limit>>20)
	}
	if hits == 0 {
		t.Error("no cached answer came through over UDP")
	}
	if told < round*some {
		t.Errorf("%d of %d queries over the share were refused", told, 2*round*some)
	}

	handler.Set(zone)
	o.recovers(stop)
	// All room is there again: another flood gets as far as the first one did.
	again := newHung()
	handler.Set(again)
	defer o.flood()()
	time.Sleep(flightTime)
	if first, second := silent.asked(flightTime), again.asked(flightTime); second < first*2/3 {
		t.Errorf("of another flood %d are in flight, and of the first one %d were", second, first)
	}
}

// flightTime is less than the forwarder waits for an upstream that is silent.
const flightTime = 3 * time.Second

// recovers waits for an answer after the upstream's return, while it is flooded, and then
// until everything is answered.
func (o *overloaded) recovers(stop func()) {
	o.t.Helper()
	back, tries := time.Now(), 0
	relieved := time.AfterFunc(5*time.Second, stop) // on a machine that is too slow for both
	defer relieved.Stop()
	eventually(o.t, "an answer", func() bool {
		tries++
		r, err := o.ask(fmt.Sprintf("again-%d.example.", tries))
		return err == nil && isGood(r)
	})
	o.t.Logf("the first answer came %v after the upstream's return", time.Since(back).Round(time.Millisecond))
	stop()
	names := make([]string, 100)
	eventually(o.t, "every answer", func() bool {
		for i := range names {
			tries++
			names[i] = fmt.Sprintf("again-%d.example.", tries)
		}
		return !slices.ContainsFunc(o.askTCP(names...), func(r *dns.Msg) bool { return !isGood(r) })
	})
	time.Sleep(forwarder.DefaultTimeout) // for what the upstream never answered
}
