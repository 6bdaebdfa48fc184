// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/forwarder/wire"
)

// generation is one of several forwarders that answer on the same sockets in turn.
type generation struct {
	t     *testing.T
	f     *Forwarder
	ctx   context.Context
	stop  context.CancelCauseFunc
	done  chan error
	conns sync.WaitGroup // handed over to it
	count atomic.Int64   // of those
}

// newGeneration serves s.
func newGeneration(t *testing.T, cfg Config, s *Sockets) *generation {
	t.Helper()
	g := &generation{t: t, done: make(chan error, 1)}
	g.ctx, g.stop = context.WithCancelCause(context.Background())
	var err error
	if g.f, err = New(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	go func() { g.done <- g.f.Serve(g.ctx, s) }()
	return g
}

// takeOver replaces g by next, and waits until g is done.
func (g *generation) takeOver(next *generation) {
	g.t.Helper()
	g.stop(&Handover{SendConn: func(c *net.TCPConn, read []byte) error {
		file, err := c.File() // another descriptor, as in another process
		if err != nil {
			return err
		}
		defer file.Close()
		other, err := net.FileConn(file)
		if err != nil {
			return err
		}
		next.count.Add(1)
		next.conns.Go(func() { next.f.ServeConn(next.ctx, other.(*net.TCPConn), read) })
		return nil
	}})
	g.finish()
}

func (g *generation) finish() {
	g.t.Helper()
	select {
	case err := <-g.done:
		if err != nil {
			g.t.Errorf("Serve: %v", err)
		}
	case <-time.After(20 * time.Second):
		g.t.Fatal("Serve does not return")
	}
	g.conns.Wait()
	if err := g.f.Close(); err != nil {
		g.t.Errorf("Close: %v", err)
	}
}

// duplicate opens the sockets of s again.
func duplicate(t *testing.T, s *Sockets) *Sockets {
	t.Helper()
	udp, tcp, err := s.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	files := func(fds []int) (out []*os.File) {
		for _, fd := range fds {
			n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, os.NewFile(uintptr(n), "socket"))
		}
		return out
	}
	next, err := Adopt(files(udp), files(tcp))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// TestHandover: ten forwarders take over from each other in turn, while clients send
// queries over UDP and over persistent TCP connections, one of them slowly. No query is
// lost, and no connection is closed.
func TestHandover(t *testing.T) {
	cfg := Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}
	s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), 2)
	if err != nil {
		t.Fatal(err)
	}
	at := s.Addr()
	g := newGeneration(t, cfg, s)
	asking, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var asked atomic.Int64
	for n := range 4 {
		clients.Go(func() { asked.Add(askUDP(asking, t, at, n)) })
		clients.Go(func() { asked.Add(askTCP(asking, t, at, n, n == 0)) })
	}
	for range 10 {
		waitFor(t, "some queries to be asked", func() bool { return g.f.conns.Len() == 4 })
		following := duplicate(t, s)
		next := newGeneration(t, cfg, following)
		g.takeOver(next)
		if n := next.count.Load(); n != 4 {
			t.Errorf("%d connections were handed over", n)
		}
		g, s = next, following
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	clients.Wait()
	g.stop(nil)
	g.finish()
	t.Logf("%d queries", asked.Load())
}

// TestWithdraw: a forwarder that withdraws from shared sockets answers the queries that it has
// read, also if the upstream takes longer than a stop waits.
func TestWithdraw(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Int64
	s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	at := s.Addr()
	g := newGeneration(t, Config{Upstream: delayedUpstream(t, release, &asked)}, s)
	answered := make(chan error, 2)
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: 20 * time.Second}
		go func() {
			_, _, err := c.Exchange(question(network+".example.", dns.TypeA), at.String())
			answered <- err
		}()
	}
	waitFor(t, "both queries to be sent to the upstream", func() bool { return asked.Load() == 2 })
	g.stop(fmt.Errorf("%w: stopped", &Withdrawal{Wait: time.Minute}))
	time.Sleep(drainTime + 200*time.Millisecond)
	close(release)
	for range 2 {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
	g.finish()
}

// TestDrainTimeout: pending replies are waited for as long as a query can take, unless all is over.
func TestDrainTimeout(t *testing.T) {
	const longest = 30*time.Second + timeoutMargin // of package config
	for _, tc := range []struct {
		cause         error
		least, utmost time.Duration
	}{
		{nil, drainTime, drainTime},
		{&Withdrawal{Wait: time.Minute}, time.Minute, time.Minute},
		{fmt.Errorf("%w: stopped", &Withdrawal{Wait: time.Minute}), time.Minute, time.Minute},
		{&Handover{}, longest + time.Second, time.Minute}, // the successor waits for a minute
	} {
		ctx, stop := context.WithCancelCause(t.Context())
		stop(tc.cause)
		if got := drainTimeout(ctx); got < tc.least || got > tc.utmost {
			t.Errorf("%v: %s, want %s to %s", tc.cause, got, tc.least, tc.utmost)
		}
	}
}

// TestHandoverOfAll: however the goroutines are scheduled, every connection is handed
// over, idle ones included.
func TestHandoverOfAll(t *testing.T) {
	cfg := Config{Upstream: newZoneUpstream(t), Cache: newCache(t)}
	for range 1000 {
		// Tests of other packages may still connect to a port of 127.0.0.1 that was theirs before.
		s, err := Listen(context.Background(), netip.MustParseAddrPort("127.0.2.1:0"), 1)
		if err != nil {
			t.Fatal(err)
		}
		at := s.Addr()
		following := duplicate(t, s)
		g := newGeneration(t, cfg, s)
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the connection to be accepted", func() bool { return g.f.conns.Len() == 1 })
		next := newGeneration(t, cfg, following)
		g.takeOver(next)
		_ = c.Close()
		next.stop(nil)
		next.finish()
		if n := next.count.Load(); n != 1 {
			t.Fatalf("%d connections were handed over", n)
		}
	}
}

// askUDP sends one query after the other, some of which are answered late, and fails the
// test if one is not answered.
func askUDP(ctx context.Context, t *testing.T, at netip.AddrPort, n int) (asked int64) {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Error(err)
		return 0
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	for ; ctx.Err() == nil; asked++ {
		m := question(fmt.Sprintf("delay-%d.u%d-%d.example", asked%40, n, asked), dns.TypeA)
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := conn.WriteMsg(m); err != nil {
			t.Errorf("udp: %v", err)
			return asked
		}
		if r, err := conn.ReadMsg(); err != nil || r.Id != m.Id || r.Rcode != dns.RcodeSuccess {
			t.Errorf("udp, query %d: %v, %v", asked, r, err)
			return asked
		}
	}
	return asked
}

// askTCP does the same over one connection, with four queries in flight. If slowly is set,
// it sends them in pieces.
func askTCP(ctx context.Context, t *testing.T, at netip.AddrPort, n int, slowly bool) (asked int64) {
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Error(err)
		return 0
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	for ctx.Err() == nil {
		open := map[uint16]bool{}
		var frames []byte
		for range 4 {
			m := question(fmt.Sprintf("delay-%d.t%d-%d.example", asked%40, n, asked), dns.TypeA)
			m.Id = uint16(asked)
			open[m.Id] = true
			asked++
			b, err := m.Pack()
			if err != nil {
				t.Error(err)
				return asked
			}
			frames = wire.AppendFrame(frames, b)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		for size := len(frames); len(frames) > 0; frames = frames[size:] {
			if slowly {
				size = 7
				time.Sleep(time.Millisecond)
			}
			size = min(size, len(frames))
			if _, err := c.Write(frames[:size]); err != nil {
				t.Errorf("tcp: %v", err)
				return asked
			}
		}
		for len(open) > 0 {
			r, err := conn.ReadMsg()
			if err != nil || !open[r.Id] || r.Rcode != dns.RcodeSuccess {
				t.Errorf("tcp, before query %d: %v, %v", asked, r, err)
				return asked
			}
			delete(open, r.Id)
		}
	}
	return asked
}

// TestAdoptRefuses: a file that is not a socket of the right kind is refused and closed.
func TestAdoptRefuses(t *testing.T) {
	file := func() *os.File {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for name, files := range map[string][2][]*os.File{
		"nothing": {}, "a file as a UDP socket": {{file()}}, "a file as a listener": {nil, {file()}},
	} {
		if s, err := Adopt(files[0], files[1]); err == nil {
			t.Errorf("%s: adopted", name)
			_ = s.Close()
		}
		for _, f := range append(files[0], files[1]...) {
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: it is still open", name)
			}
		}
	}
}
