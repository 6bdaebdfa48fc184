// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestDrainSlowQuery: Drain closes a connection after its last reply, also if that takes longer
// than drainWait.
func TestDrainSlowQuery(t *testing.T) {
	up := newZoneUpstream(t)
	f, at := startForwarder(t, Config{Upstream: up, TCPIdle: time.Hour}, "127.0.0.1:0")
	c := redial(t, at.String())
	if err := c.WriteMsg(question("delay-2500.example", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	for up.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	f.Drain()
	if _, err := c.ReadMsg(); err != nil {
		t.Fatalf("the reply: %v", err)
	}
	if _, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("after the reply: %v, want EOF", err)
	}
}

// TestDrainIdle: Drain closes connections without a query, also those that are accepted at that
// moment or later.
func TestDrainIdle(t *testing.T) {
	f, at := startForwarder(t, Config{Upstream: newZoneUpstream(t), TCPIdle: time.Hour}, "127.0.0.1:0")
	const n = 200
	var conns []*dns.Conn
	for i := range n {
		conns = append(conns, redial(t, at.String()))
		if i == n/2 {
			f.Drain()
		}
	}
	for i, c := range conns {
		if _, err := c.ReadMsg(); !errors.Is(err, io.EOF) {
			t.Fatalf("connection %d of %d: %v, want EOF", i, n, err)
		}
	}
}

// drainedEarlier is the context of a drain whose deadline for reading has been set already.
type drainedEarlier struct{ context.Context }

func (drainedEarlier) Done() <-chan struct{} { return nil }
func (drainedEarlier) Err() error            { return context.Canceled }

// TestDrainDeadlineReplaced: a connection that replaces the deadline that Drain has set for it
// at that moment is closed, too.
func TestDrainDeadlineReplaced(t *testing.T) {
	f, err := New(t.Context(), Config{Upstream: newZoneUpstream(t), TCPIdle: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.drain = drainedEarlier{t.Context()}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	client := redial(t, l.Addr().String())
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(served)
		newTCPConn(f, c).serve(ctx)
	}()
	if _, err := client.ReadMsg(); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want EOF", err)
	}
	cancel()
	<-served
}
