// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/miekg/dns"

	"sotto/forwarder"
	"sotto/forwarder/cache"
	"sotto/forwarder/shared"
	"sotto/internal/dnstest"
)

// patience is how long a condition may take on a busy machine.
const patience = 30 * time.Second

// server is a redis-server.
type server struct {
	t    testing.TB
	args []string
	at   string
	cmd  *exec.Cmd
}

// startServer starts redis-server with more arguments, on a port of its own.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, at: l.Addr().String()}
	_ = l.Close()
	_, port, _ := net.SplitHostPort(s.at)
	s.args = append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir()}, args...)
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, "redis-server listens", func() bool {
		c, err := net.Dial("tcp", s.at)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // killed
}

// do sends a command and returns its reply.
func (s *server) do(command string, args ...any) any {
	s.t.Helper()
	c, err := redis.Dial("tcp", s.at)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	reply, err := c.Do(command, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply
}

// keys returns the names of all entries.
func (s *server) keys() []string {
	s.t.Helper()
	keys, err := redis.Strings(s.do("KEYS", "*"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// until waits for a condition.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// upstream answers from a zone, and counts.
type upstream struct {
	zone     *dnstest.Zone
	identity string
	asked    atomic.Int64
	fails    atomic.Bool
	noTTL    atomic.Bool // its answers may not be cached
	delay    time.Duration
}

func newUpstream(t testing.TB, identity string) *upstream {
	t.Helper()
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return &upstream{zone: zone, identity: identity}
}

func (u *upstream) Identity() string { return u.identity }

func (u *upstream) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	u.asked.Add(1)
	time.Sleep(u.delay)
	if u.fails.Load() {
		return nil, fmt.Errorf("the upstream fails")
	}
	msg := u.zone.Answer(&dnstest.Request{Query: query, Transport: dnstest.TLS}).Msg
	if !u.noTTL.Load() {
		return msg, nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(msg); err != nil {
		return nil, err
	}
	for _, rr := range m.Answer {
		rr.Header().Ttl = 0
	}
	return m.Pack()
}

// replica is one instance that shares its answers.
type replica struct {
	at     netip.AddrPort
	shared *shared.Cache
	cache  *cache.Cache
	from   [forwarder.Sources]atomic.Int64 // queries by source
}

// options are those of a replica.
type options struct {
	store    Config
	secret   []byte
	maxStale time.Duration
	timeout  time.Duration
	alone    bool // without the shared cache
}

// startReplica serves queries with a cache of its own and the shared one, until the test ends.
func startReplica(t testing.TB, up *upstream, o options) *replica {
	t.Helper()
	r := &replica{}
	ctx, stop := context.WithCancel(context.Background())
	var err error
	if r.cache, err = cache.New(cache.Config{MaxStale: o.maxStale}); err != nil {
		t.Fatal(err)
	}
	cfg := forwarder.Config{Upstream: up, Cache: r.cache, Observe: func(e forwarder.Event) { r.from[e.Source].Add(1) }}
	done := make(chan error, 2)
	store := New(o.store)
	if !o.alone {
		if r.shared, err = shared.New(shared.Config{Store: store, Prefix: "test:", Secret: o.secret, Timeout: o.timeout}); err != nil {
			t.Fatal(err)
		}
		cfg.Shared = r.shared
		go func() { done <- r.shared.Run(ctx) }()
	}
	f, err := forwarder.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.SetFixedOrder(true) // replies are compared
	sockets, err := forwarder.Listen(ctx, netip.MustParseAddrPort("127.0.0.1:0"), 2)
	if err != nil {
		t.Fatal(err)
	}
	r.at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), sockets.Addr().Port())
	go func() { done <- f.Serve(ctx, sockets) }()
	t.Cleanup(func() {
		stop()
		for range cap(done) {
			if o.alone {
				o.alone = false
				continue
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		_ = f.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		r.cache.Close()
	})
	return r
}

// waitUp waits until the replica uses the server.
func (r *replica) waitUp(t testing.TB) {
	t.Helper()
	until(t, "the shared cache works", func() bool { return r.shared.Stats().Up })
}
