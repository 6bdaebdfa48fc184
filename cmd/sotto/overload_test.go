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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dot"
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

// TestHungUpstream: an upstream that takes queries and answers none, with as many
// queries coming in as the machine can send, up to 50,000 a second: memory is bounded,
// who is one too many hears so, what is cached is answered, and all is well again when
// the upstream is.
func TestHungUpstream(t *testing.T) {
	flags, handler, zone := switchedServer(t)
	addr, pid := startChild(t, flags...)
	ask := func(name string) (*dns.Msg, error) {
		c := dns.Client{Timeout: time.Second} // UDP may lose a query in a crowd
		r, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), addr)
		return r, err
	}
	isGood := func(r *dns.Msg, err error) bool {
		return err == nil && r.Rcode == dns.RcodeSuccess && len(r.Answer) == 1
	}
	if r, err := ask("cached.example."); !isGood(r, err) {
		t.Fatalf("%v, %v", r, err)
	}

	handler.Set(dot.Silent())
	length := 8 * time.Second
	if testing.Short() {
		length = 5 * time.Second
	}
	var sent, refused atomic.Int64
	end := make(chan struct{})
	var floods sync.WaitGroup
	rate := 50_000
	if raceDetector {
		rate = 5_000 // as much of a load for a program that is ten times slower
	}
	for i := range 8 {
		floods.Go(func() { flood(t, addr, i, rate/8, end, &sent, &refused) })
	}
	hits, tries := 0, 0
	for until := time.Now().Add(length); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if tries++; isGood(ask("cached.example.")) {
			hits++
		}
		if tries == 1 {
			eventually(t, "a refusal", func() bool { return refused.Load() > 0 })
		}
	}
	peak := peakMemory(t, pid)
	t.Logf("%.0f queries a second; %d refused; %d of %d cached answers meanwhile; at most %d MiB resident",
		float64(sent.Load())/length.Seconds(), refused.Load(), hits, tries, peak>>20)
	if limit := int64(200 << 20); !raceDetector && peak > limit {
		t.Errorf("%d MiB were resident, want at most %d", peak>>20, limit>>20)
	}
	if hits < tries/4 {
		t.Errorf("%d of %d cached answers came through", hits, tries)
	}

	handler.Set(zone)
	back := time.Now()
	tries = 0
	relieved := time.AfterFunc(5*time.Second, func() { close(end) }) // on a machine that is too slow for both
	eventually(t, "an answer", func() bool {
		tries++
		return isGood(ask(fmt.Sprintf("again-%d.example.", tries)))
	})
	t.Logf("the first answer came %v after the upstream's return", time.Since(back).Round(time.Millisecond))
	if relieved.Stop() {
		close(end)
	}
	floods.Wait()
}
