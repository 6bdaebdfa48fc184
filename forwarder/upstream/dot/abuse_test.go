// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestUnaskedFlood: replies that arrive while no query is pending close the connection, too,
// and queries that wait for a new one are not affected.
func TestUnaskedFlood(t *testing.T) {
	z := servertest.Zone(t)
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if r.Conn == 1 {
			a.Raw = bytes.Repeat(servertest.Stray(), 4*maxStrays)
		}
		return a
	}), nil)
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	servertest.Eventually(t, "the connection closes", func() bool { return cl.stats().Conns == 0 })
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Strays != maxStrays+1 || st.Failed != 0 || st.Dials != 2 {
		t.Errorf("stats %+v, want %d strays on the first of two connections, and no failure", st, maxStrays+1)
	}
}

// TestFloodIsNotRedialled: maintenance does not dial a server in a loop that floods each
// connection.
func TestFloodIsNotRedialled(t *testing.T) {
	flood := bytes.Repeat(servertest.Stray(), 64)
	s := servertest.ServeConns(t, nil, func(c *tls.Conn) {
		for _, err := c.Write(flood); err == nil; _, err = c.Write(flood) {
		}
	})
	cl := newClient(t, s)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	started := time.Now()
	go func() { cl.run(ctx); close(done) }()
	servertest.Eventually(t, "it is dialled twice more", func() bool { return cl.stats().Dials > 2 })
	took := time.Since(started)
	stop()
	<-done
	if took < time.Second {
		t.Errorf("it was dialled three times within %v", took)
	}
	if st := cl.stats(); st.Strays > st.Dials*(maxStrays+1) {
		t.Errorf("%d strays were read on %d connections", st.Strays, st.Dials)
	}
}

// TestStopsReading: a server that stops reading fills all buffers up to the one that
// queries are written from. The queries fail, the connection closes, and nothing is left.
func TestStopsReading(t *testing.T) {
	s := servertest.ServeConns(t, servertest.SmallBuffers(t), func(*tls.Conn) { <-t.Context().Done() })
	cl := clientOf(t, transport.Config{
		Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, SilentTimeout: 900 * time.Millisecond, Control: servertest.SmallBuffer,
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	w := transport.NewTimer()
	defer w.Stop()
	c, err := cl.pool.conns.Reserve(ctx, servertest.Deadline(), w)
	if err != nil {
		t.Fatal(err)
	}
	c.release()
	var wg sync.WaitGroup
	for n := range 2000 { // 300 kB, at once: before its silence is noticed
		wg.Go(func() {
			if _, err := servertest.Ask(t, cl, fmt.Sprintf("n%d.example.", n)); err == nil {
				t.Error("an answer from a server that does not read")
			}
		})
	}
	servertest.Eventually(t, "something stays unwritten", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.writing && len(c.out) > 0 || c.closeErr != nil
	})
	wg.Wait()
	servertest.Eventually(t, "the connection closes", func() bool {
		select {
		case <-c.done:
			return true
		default:
			return false
		}
	})
	if c.table.len() != 0 || c.out != nil || c.load.Load() != 0 {
		t.Errorf("%d in flight, %d bytes pending, load %d", c.table.len(), len(c.out), c.load.Load())
	}
}

// TestResetsLoseNothing: a connection that is reset while idle, between two replies or within
// one loses no query, and leaves no goroutine and no descriptor.
func TestResetsLoseNothing(t *testing.T) {
	z := servertest.Zone(t)
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		switch {
		case r.Conn%3 == 1 && r.N == 3: // within the reply
			frame := dnstest.Frame(a.Msg)
			a.Msg, a.Raw, a.Then = nil, frame[:len(frame)/2], dnstest.Reset
		case r.Conn%3 == 2 && r.N == 3: // after the reply
			a.Then = dnstest.Reset
		}
		return a
	}), nil)
	cl := newClient(t, s)
	round := func() {
		for range 10 {
			servertest.MustAsk(t, cl, "www.example.")
		}
		s.EndConns(dnstest.Reset) // while idle
	}
	round()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 30 {
		round()
	}
	servertest.MustAsk(t, cl, "www.example.")
	const margin = 8 // for one connection, at both ends
	servertest.Eventually(t, "goroutines and descriptors are released", func() bool {
		return runtime.NumGoroutine() <= goroutines+margin && openFiles(t) <= files+margin
	})
	if st := cl.stats(); st.Failed != 0 || st.Resent == 0 || st.Dials < 60 {
		t.Errorf("stats %+v, want resent queries and no failure", st)
	}
}

// openFiles returns the number of open descriptors of this process.
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
