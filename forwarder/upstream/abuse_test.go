// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// rogue is a server that is who it should be, and then does as it likes with a
// connection until that fails or the test ends.
func rogue(t *testing.T, change func(*dnstest.Config), behave func(c *tls.Conn)) *dnstest.Server {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{issue(t, dnstest.CertOptions{})}, NextProtos: []string{"dot"}}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // after the server and whoever asks it are closed
	return serve(t, zone(t), func(cfg *dnstest.Config) {
		if change != nil {
			change(cfg)
		}
		cfg.Accept = func(nc net.Conn) bool {
			wg.Go(func() {
				defer nc.Close()
				if c := tls.Server(nc, config); c.Handshake() == nil {
					behave(c)
				}
			})
			return false
		}
	})
}

// stray is a reply to a query that nobody sent.
func stray() []byte {
	msg := query("stray.example.", typeA)
	msg[2] |= 0x80
	return dnstest.Frame(msg)
}

// TestDrips: a server that always has a little more to send, and never a reply, looks
// alive to whoever counts bytes. It holds a query up for no longer than any other does.
func TestDrips(t *testing.T) {
	for _, tc := range []struct {
		what        string
		first, then []byte
		code        uint16
		says        string
	}{
		{"a long frame, byte by byte", []byte{0xff, 0xff}, []byte{0}, wire.EDENoReachableAuthority, "no answer within "},
		{"replies to nobody", nil, stray(), wire.EDENetworkError, "do not match"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			drip := func(c *tls.Conn) {
				for _, err := c.Write(tc.first); err == nil; _, err = c.Write(tc.then) {
					time.Sleep(20 * time.Millisecond)
				}
			}
			bad := rogue(t, nil, drip)
			worst := time.Duration(0)
			g := groupOf(t, hasty(bad, serve(t, zone(t), nil)))
			for n := range 5 {
				began := time.Now()
				mustAsk(t, g, fmt.Sprintf("n%d.example.", n))
				worst = max(worst, time.Since(began))
			}
			began := time.Now()
			_, err := ask(t, groupOf(t, hasty(bad)), "www.example.")
			wantEDE(t, err, tc.code, tc.says)
			t.Logf("beside a good server a query took %v at most; alone it failed after %v",
				worst.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		})
	}
}

// TestUnaskedFlood: replies that come while nothing is asked end the connection too, and
// who waits for a new one does not notice.
func TestUnaskedFlood(t *testing.T) {
	z := zone(t)
	s := serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if r.Conn == 1 {
			a.Raw = bytes.Repeat(stray(), 4*maxStrays)
		}
		return a
	}), nil)
	g := group(t, s)
	mustAsk(t, g, "www.example.")
	eventually(t, "the connection ends", func() bool { return g.Stats().Servers[0].Conns == 0 })
	mustAsk(t, g, "www.example.")
	if st := g.Stats().Servers[0]; st.Strays != maxStrays+1 || st.Failed != 0 || st.Dials != 2 {
		t.Errorf("stats %+v, want %d strays on the first of two connections, and no failure", st, maxStrays+1)
	}
}

// TestFloodIsNotInvited: a server that floods whoever connects is not dialled in a loop by
// what keeps connections warm.
func TestFloodIsNotInvited(t *testing.T) {
	flood := bytes.Repeat(stray(), 64)
	s := rogue(t, nil, func(c *tls.Conn) {
		for _, err := c.Write(flood); err == nil; _, err = c.Write(flood) {
		}
	})
	g := group(t, s)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- g.Run(ctx) }()
	eventually(t, "it is dialled twice more", func() bool { return g.Stats().Servers[0].Dials > 2 })
	took := time.Since(began)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took < time.Second {
		t.Errorf("it was dialled three times within %v", took)
	}
	if st := g.Stats().Servers[0]; st.Strays > st.Dials*(maxStrays+1) {
		t.Errorf("%d strays were read on %d connections", st.Strays, st.Dials)
	}
}

// TestStopsReading: a server that takes no more bytes fills every buffer up to the one
// that queries are written from. Those are asked elsewhere, and the connection ends.
func TestStopsReading(t *testing.T) {
	small := func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) {
			for _, opt := range []int{syscall.SO_RCVBUF, syscall.SO_SNDBUF} {
				if err == nil {
					err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, opt, 4096)
				}
			}
		})
		if err == nil {
			err = e
		}
		return err
	}
	s := rogue(t, func(cfg *dnstest.Config) {
		at := cfg.TLS[0].Addr().String()
		_ = cfg.TLS[0].Close()
		l, err := (&net.ListenConfig{Control: small}).Listen(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		cfg.TLS[0] = l
	}, func(*tls.Conn) { <-t.Context().Done() })
	cfg := hasty(s, serve(t, zone(t), nil))
	cfg.Control = small
	g := groupOf(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, d, err := poolOf(g).pick(ctx)
	if c == nil && err == nil {
		<-d.done
		c, _, err = poolOf(g).pick(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 2000 { // 300 kB, at once: before its silence is noticed
		wg.Go(func() {
			if _, err := ask(t, g, fmt.Sprintf("n%d.example.", n)); err != nil {
				t.Errorf("an error: %v", err)
			}
		})
	}
	eventually(t, "something stays unwritten", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.writing && len(c.out) > 0 || c.err != nil
	})
	wg.Wait()
	eventually(t, "the connection ends", func() bool {
		select {
		case <-c.done:
			return true
		default:
			return false
		}
	})
	if c.table.len() != 0 || c.out != nil || c.load.Load() != 0 {
		t.Errorf("%d in flight, %d bytes waiting", c.table.len(), len(c.out))
	}
}

// TestResetsLoseNothing: a connection that is reset while idle, between two replies or within one
// costs the client nothing, and leaves no goroutine and no descriptor.
func TestResetsLoseNothing(t *testing.T) {
	z := zone(t)
	s := serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		switch {
		case r.Conn%3 == 1 && r.N == 3: // within its reply
			frame := dnstest.Frame(a.Msg)
			a.Msg, a.Raw, a.Then = nil, frame[:len(frame)/2], dnstest.Reset
		case r.Conn%3 == 2 && r.N == 3: // after its reply
			a.Then = dnstest.Reset
		}
		return a
	}), nil)
	g := group(t, s)
	round := func() {
		for range 10 {
			mustAsk(t, g, "www.example.")
		}
		s.EndConns(dnstest.Reset) // while idle
	}
	round()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 30 {
		round()
	}
	mustAsk(t, g, "www.example.")
	const own = 8 // one connection more or less, at both ends
	eventually(t, "goroutines and descriptors are given back", func() bool {
		return runtime.NumGoroutine() <= goroutines+own && openFiles(t) <= files+own
	})
	if st := g.Stats().Servers[0]; st.Failed != 0 || st.Resent == 0 || st.Dials < 60 {
		t.Errorf("stats %+v, want resent queries and no failure", st)
	}
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return len(names)
}
