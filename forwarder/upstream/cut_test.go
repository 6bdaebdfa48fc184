// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/internal/dnstest"
)

// How a cutter fails.
const (
	cutReset = "reset"
	cutClose = "close"
	cutStall = "stall" // no more data, without an error
)

// cutter is a proxy to a server whose connections fail after a number of bytes in one
// direction, until it is repaired.
type cutter struct {
	to       netip.AddrPort
	l        net.Listener
	up       int64 // bytes from the client before it fails; < 0: never
	down     int64 // bytes from the server before it fails; < 0: never
	how      string
	repaired atomic.Bool

	sentUp, sentDown atomic.Int64
	mu               sync.Mutex
	conns            []net.Conn
	wg               sync.WaitGroup
}

func newCutter(t *testing.T, s *dnstest.Server, up, down int64, how string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{to: s.Addr(), l: l, up: up, down: down, how: how}
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) addr() netip.AddrPort { return netip.MustParseAddrPort(c.l.Addr().String()) }

func (c *cutter) accept() {
	for {
		in, err := c.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to.String())
		if err != nil {
			_ = in.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, in, out)
		c.mu.Unlock()
		c.wg.Go(func() { c.carry(out, in, in, c.up, &c.sentUp) })
		c.wg.Go(func() { c.carry(in, out, in, c.down, &c.sentDown) })
	}
}

// carry copies from one connection to the other until it fails; client is the one that
// fails.
func (c *cutter) carry(to, from, client net.Conn, limit int64, sent *atomic.Int64) {
	defer to.Close()
	if limit < 0 || c.repaired.Load() {
		n, _ := io.Copy(to, from)
		sent.Add(n)
		return
	}
	_, err := io.CopyN(to, from, limit)
	switch {
	case err != nil: // closed before the limit
	case c.how == cutReset:
		_ = client.(*net.TCPConn).SetLinger(0)
		_ = client.Close()
	case c.how == cutClose:
		_ = client.Close()
	case c.how == cutStall:
		_, _ = io.Copy(io.Discard, from) // until the client closes
	}
}

// TestCutAnywhere: the connection closes, is reset or falls silent after any number of
// bytes, in either direction: in the handshake, the query, the reply, or between two. With
// a second server no query is lost; alone each fails in time with a reason, and when the
// connection works again, queries are answered again.
func TestCutAnywhere(t *testing.T) {
	z := servertest.Zone(t)
	good := servertest.Serve(t, z, nil)
	// Measure the bytes of a whole exchange, including the handshake.
	whole := newCutter(t, good, -1, -1, "")
	g := groupOf(t, Config{Servers: []Server{{Addr: whole.addr(), Name: servertest.Name}}})
	servertest.MustAsk(t, g, "www.example.")
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	servertest.Eventually(t, "both directions are closed", func() bool { return whole.sentUp.Load() > 0 && whole.sentDown.Load() > 0 })
	const keyShare = 1222 // of X25519MLKEM768; a second handshake leaves it out if the first is cut in it
	up, down := whole.sentUp.Load()-keyShare, whole.sentDown.Load()

	for _, how := range []string{cutReset, cutClose, cutStall} {
		for _, share := range []float64{0, 0.3, 0.7, 0.95} {
			for _, upwards := range []bool{true, false} {
				where, at := [2]int64{-1, int64(float64(down) * share)}, fmt.Sprintf("%.0f%% of what the server sends", 100*share)
				if upwards {
					where, at = [2]int64{int64(float64(up) * share), -1}, fmt.Sprintf("%.0f%% of what the client sends", 100*share)
				}
				t.Run(how+" after "+at, func(t *testing.T) {
					t.Parallel()
					bad := newCutter(t, servertest.Serve(t, z, nil), where[0], where[1], how)
					cfg := hasty(good)
					cfg.Servers = append([]Server{{Addr: bad.addr(), Name: servertest.Name}}, cfg.Servers...)
					both := groupOf(t, cfg)
					for n := range 3 {
						servertest.MustAsk(t, both, fmt.Sprintf("n%d.example.", n))
					}
					alone := hasty()
					alone.Servers = []Server{{Addr: bad.addr(), Name: servertest.Name}}
					one := groupOf(t, alone)
					if _, err := servertest.Ask(t, one, "alone.example."); err == nil {
						t.Error("answered over a connection that fails")
					}
					bad.repaired.Store(true)
					servertest.Eventually(t, "an answer over the repaired connection", func() bool {
						_, err := servertest.Ask(t, one, "repaired.example.")
						return err == nil
					})
				})
			}
		}
	}
}

// TestByteAtATime: a server that sends its replies one byte at a time is slow, but works.
func TestByteAtATime(t *testing.T) {
	z := servertest.Zone(t)
	s := servertest.Serve(t, z, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				_ = in.Close()
				return
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() {
				defer in.Close()
				b := make([]byte, 1)
				for {
					if _, err := out.Read(b); err != nil {
						return
					}
					if _, err := in.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	g := groupOf(t, Config{Servers: []Server{{Addr: netip.MustParseAddrPort(l.Addr().String()), Name: servertest.Name}}, Timeout: 8 * time.Second})
	for n := range 3 {
		servertest.MustAsk(t, g, fmt.Sprintf("n%d.example.", n))
	}
}
