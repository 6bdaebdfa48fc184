// SPDX-License-Identifier: Apache-2.0

package auto

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sotto/forwarder/upstream/transport"
)

// path is one protocol between this machine and the server. A reply takes rtt; negative: it
// never comes.
type path struct {
	cfg transport.Config

	mu       sync.Mutex
	rtt      time.Duration
	err      error // instead of a reply
	lively   bool  // bytes arrive, though not the reply
	asked    int
	expected bool // Maintain was called with that
	resets   int
	closed   bool
	lastRead atomic.Int64
}

func (p *path) set(rtt time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rtt, p.err = rtt, err
}

func (p *path) setLively(lively bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lively = lively
}

func (p *path) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.asked
	p.asked = 0
	return n
}

func (p *path) Exchange(ctx context.Context, query []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	p.mu.Lock()
	rtt, err, lively := p.rtt, p.err, p.lively
	p.asked++
	p.mu.Unlock()
	done := make(chan struct{}, 1)
	if rtt >= 0 {
		time.AfterFunc(rtt, func() { done <- struct{}{} })
	}
	if lively {
		time.AfterFunc(100*time.Millisecond, func() { p.lastRead.Store(transport.Ticks(time.Now())) })
	}
	if werr := w.Wait(ctx, done, time.Now(), until, &p.lastRead); werr != nil {
		return nil, werr
	}
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(p.cfg.Server.String()+" "), query), nil
}

func (p *path) Maintain(_ context.Context, _ time.Time, expected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = expected
}

func (p *path) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resets++
}

func (p *path) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

func (p *path) Stats() transport.Stats {
	return transport.Stats{Conns: 1, Dials: 2, Protocol: "TLS of " + p.cfg.Server.Protocol.String()}
}

// failures counts the failures that are reported.
type failures struct {
	mu   sync.Mutex
	errs []error
}

func (f *failures) BytesRead(int64)      {}
func (f *failures) Replied(int64, int64) {}
func (f *failures) MaintenanceDue()      {}
func (f *failures) DialFailed(_ time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, err)
}

func (f *failures) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.errs)
}

// world is a server that is reached over each protocol in 20 ms, unless a test changes that.
type world struct {
	*testing.T
	*Transport
	failures failures
	paths    map[transport.Protocol]*path
}

// run runs a test on a false clock.
func run(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, paths: map[transport.Protocol]*path{}}
		var err error
		w.Transport, err = New(transport.Config{
			Server: transport.Server{
				Protocol: transport.Auto, Name: "dns.example", Path: "/dns-query",
				Addr: netip.MustParseAddrPort("192.0.2.1:0"), Also: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:0")},
			},
			DialTimeout: 3500 * time.Millisecond, Log: slog.New(slog.DiscardHandler), Observer: &w.failures,
		}, Options{
			Probe: []byte("probe"), Port: transport.Protocol.Port,
			New: func(cfg transport.Config) (transport.Transport, error) {
				p := &path{cfg: cfg, rtt: 20 * time.Millisecond}
				p.lastRead.Store(math.MinInt64) // the false clock is before the start of ticks
				w.paths[cfg.Server.Protocol] = p
				return p, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		f(w)
		w.Close()
		for _, p := range w.paths {
			if !p.closed {
				t.Errorf("%s is not closed", p.cfg.Server)
			}
		}
	})
}

// ask sends a query, and checks the server that answers and the time it takes.
func (w *world) ask(server string, took time.Duration) {
	w.Helper()
	timer := transport.NewTimer()
	defer timer.Stop()
	started := time.Now()
	reply, err := w.Exchange(w.Context(), []byte("query"), started.Add(3500*time.Millisecond), timer)
	if err != nil || string(reply) != server+" query" {
		w.Fatalf("%s: %q, %v", server, reply, err)
	}
	if got := time.Since(started); got != took {
		w.Errorf("%s took %s, want %s", server, got, took)
	}
}

// nextRetry returns when better protocols are tried again, and the wait before that.
func (w *world) nextRetry() (time.Time, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.retryAt, w.retryWait
}

const (
	overQUIC = "quic://dns.example#192.0.2.1,2001:db8::1"
	overH3   = "h3://dns.example/dns-query#192.0.2.1,2001:db8::1"
	overTLS  = "192.0.2.1:853,[2001:db8::1]:853#dns.example"
	overH2   = "https://dns.example/dns-query#192.0.2.1,2001:db8::1"
	rtt      = 20 * time.Millisecond
)

// TestBestWorks: only the best protocol is used if it works.
func TestBestWorks(t *testing.T) {
	run(t, func(w *world) {
		if s := w.Stats(); s.Using != "" || s.Conns != 4 || s.Dials != 8 {
			t.Errorf("stats %+v", s)
		}
		w.ask(overQUIC, 2*rtt) // the probe and the query
		w.ask(overQUIC, rtt)
		if n := w.paths[transport.DoQ].count(); n != 3 {
			t.Errorf("%d queries, want the probe and two", n)
		}
		for _, p := range Order[1:] {
			if n := w.paths[p].count(); n != 0 {
				t.Errorf("%d queries over %s", n, p)
			}
		}
		if s := w.Stats(); s.Using != "DoQ" || s.Protocol != "TLS of DoQ" {
			t.Errorf("stats %+v", s)
		}
		w.Maintain(w.Context(), time.Now().Add(24*time.Hour), true)
		if !w.paths[transport.DoQ].expected || w.paths[transport.DoT].expected {
			t.Error("the best protocol is not maintained, or not alone")
		}
	})
}

// TestUDPBlocked: protocols over UDP are silent. They are tried again with growing pauses,
// and used when they work.
func TestUDPBlocked(t *testing.T) {
	run(t, func(w *world) {
		w.paths[transport.DoQ].set(-1, nil)
		w.paths[transport.DoH3].set(-1, nil)
		w.ask(overTLS, 2*headStart+2*rtt)
		w.ask(overTLS, rtt)
		for i, pause := range []time.Duration{minRetry, 2 * minRetry, 4 * minRetry, 8 * minRetry, 16 * minRetry, maxRetry, maxRetry} {
			for _, p := range Order {
				w.paths[p].count()
			}
			at, wait := w.nextRetry()
			if wait != pause {
				t.Errorf("retry %d after %s, want %s", i, wait, pause)
			}
			time.Sleep(time.Until(at) - time.Millisecond)
			w.Maintain(w.Context(), time.Now(), true)
			synctest.Wait()
			if w.paths[transport.DoQ].count() != 0 {
				t.Errorf("retry %d is too early", i)
			}
			time.Sleep(time.Millisecond)
			w.Maintain(w.Context(), time.Now(), true)
			w.ask(overTLS, rtt) // meanwhile
			time.Sleep(5 * time.Second)
			if q, h := w.paths[transport.DoQ].count(), w.paths[transport.DoH3].count(); q != 1 || h != 1 {
				t.Errorf("retry %d: %d and %d probes", i, q, h)
			}
		}
		w.paths[transport.DoH3].set(rtt, nil)
		time.Sleep(maxRetry)
		w.Maintain(w.Context(), time.Now(), true)
		time.Sleep(time.Second)
		w.ask(overH3, rtt)
		if n := w.failures.count(); n != 0 {
			t.Errorf("%d failures reported", n)
		}
	})
}

// TestRefused: a protocol that is refused gets no head start.
func TestRefused(t *testing.T) {
	run(t, func(w *world) {
		for _, p := range Order[:3] {
			w.paths[p].set(rtt, &transport.DialError{Err: syscall.ECONNREFUSED})
		}
		w.ask(overH2, 5*rtt)
		if w.Stats().Using != "DoH" {
			t.Errorf("stats %+v", w.Stats())
		}
	})
}

// TestBreaks: the query that meets a protocol that no longer works is sent again over another.
func TestBreaks(t *testing.T) {
	for name, broken := range map[string]error{
		"no connection": &transport.DialError{Err: syscall.ECONNREFUSED},
		"silence":       &transport.LostError{Err: transport.ErrSilent},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(w *world) {
				w.ask(overQUIC, 2*rtt)
				w.paths[transport.DoQ].set(rtt, broken)
				w.ask(overH3, 4*rtt) // the error, two probes and the query
				w.ask(overH3, rtt)
			})
		})
	}
}

// TestFallsSilent: the server is silent over the protocol in use, which only a trial can find
// out in time. A slow name is not taken for that.
func TestFallsSilent(t *testing.T) {
	run(t, func(w *world) {
		w.ask(overQUIC, 2*rtt)
		time.Sleep(doubtPause)
		quic := w.paths[transport.DoQ]
		quic.set(2*time.Second, nil)
		quic.setLively(true)
		w.ask(overQUIC, 2*time.Second)
		if n := quic.count(); n != 3 {
			t.Errorf("%d queries, want no probe for a slow name", n)
		}
		quic.set(-1, nil)
		quic.setLively(false)
		w.ask(overH3, patience+headStart+2*rtt)
		w.ask(overH3, rtt)

		// A trial that confirms the protocol does not send the query again.
		time.Sleep(doubtPause)
		h3 := w.paths[transport.DoH3]
		h3.count()
		h3.set(3*time.Second, nil)
		go func() {
			time.Sleep(patience / 2)
			h3.set(rtt, nil)
		}()
		w.ask(overH3, 3*time.Second)
		if n := h3.count(); n != 2 {
			t.Errorf("%d queries, want one and a probe", n)
		}
	})
}

// TestNothingWorks: the failure is reported once, with the most specific reason, and repeated
// trials have a pause.
func TestNothingWorks(t *testing.T) {
	run(t, func(w *world) {
		untrusted := &transport.TrustError{Reason: "its certificate is for other.example"}
		w.paths[transport.DoQ].set(-1, nil)
		w.paths[transport.DoH3].set(rtt, &transport.DialError{Err: syscall.ENETUNREACH})
		w.paths[transport.DoT].set(rtt, &transport.DialError{Err: io.EOF})
		w.paths[transport.DoH].set(rtt, &transport.DialError{Err: untrusted})
		for range 3 {
			timer := transport.NewTimer()
			_, err := w.Exchange(w.Context(), []byte("query"), time.Now().Add(5*time.Second), timer)
			timer.Stop()
			if !transport.IsDial(err) || !errors.Is(err, untrusted) {
				t.Errorf("error %v", err)
			}
		}
		if n := w.failures.count(); n != 1 {
			t.Errorf("%d failures reported, want one", n)
		}
		w.paths[transport.DoT].set(rtt, nil)
		time.Sleep(trialPause)
		w.ask(overTLS, 2*headStart+2*rtt-headStart+rtt)
	})
}

// TestReset: another network gets another trial, also if one is in progress.
func TestReset(t *testing.T) {
	run(t, func(w *world) {
		w.ask(overQUIC, 2*rtt)
		w.Reset()
		if w.Stats().Using != "" || w.paths[transport.DoQ].resets != 1 {
			t.Errorf("stats %+v", w.Stats())
		}
		w.Maintain(w.Context(), time.Now(), true)
		go func() {
			time.Sleep(rtt / 2)
			w.Reset()
		}()
		w.ask(overQUIC, rtt/2+2*rtt)
		w.Reset()
		for _, p := range Order {
			w.paths[p].set(-1, nil)
		}
		done := make(chan error)
		go func() {
			timer := transport.NewTimer()
			defer timer.Stop()
			_, err := w.Exchange(w.Context(), []byte("query"), time.Now().Add(5*time.Second), timer)
			done <- err
		}()
		synctest.Wait()
		w.Close()
		if err := <-done; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("error %v", err)
		}
		if !strings.HasPrefix(w.paths[transport.DoT].cfg.Server.String(), overTLS) {
			t.Error("the children have other servers")
		}
	})
}
