// SPDX-License-Identifier: Apache-2.0

package doq

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestStreamLimit: a server that permits few streams at a time answers every query.
func TestStreamLimit(t *testing.T) {
	s := servertest.ServeQUIC(t, dnstest.Delay(time.Millisecond, servertest.Zone(t)), func(s *servertest.QUIC) {
		s.Config = func(cfg *quic.Config) { cfg.MaxIncomingStreams = 3 }
	})
	cl := newClient(t, s, nil)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			if _, err := servertest.Ask(t, cl, fmt.Sprintf("n%d.example.", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if st := cl.T.Stats(); st.Resent != 0 || st.Lost != 0 || st.Conns > 2 {
		t.Errorf("stats %+v", st)
	}
}

// TestStatelessReset: a server that has lost its connections says so, and queries are sent
// again.
func TestStatelessReset(t *testing.T) {
	s := servertest.ServeQUIC(t, servertest.Zone(t), nil)
	cl := newClient(t, s, nil)
	servertest.MustAsk(t, cl, "www.example.")
	s.Crash()
	servertest.MustAsk(t, cl, "www.example.")
	// A late acknowledgement may meet the closed port before the query is sent, and close the
	// connection: then nothing is sent again.
	if st := cl.T.Stats(); st.Dials != 2 || st.DialErrors != 0 || st.Resent > 1 {
		t.Errorf("stats %+v, want a second connection", st)
	}
}

// TestDeadPath: a path that drops everything is noticed, and the query is sent again over a
// new one.
func TestDeadPath(t *testing.T) {
	s := servertest.ServeQUIC(t, servertest.Zone(t), nil)
	r := servertest.NewRelay(t, "UDP", s.Addr)
	cl := newClient(t, s, func(cfg *transport.Config) {
		cfg.Server.Addr = r.Addr
		cfg.SilentTimeout = 300 * time.Millisecond
	})
	servertest.MustAsk(t, cl, "www.example.")
	r.MustDropOpen(t)
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.T.Stats(); st.Resent != 1 || st.Dials != 2 {
		t.Errorf("stats %+v, want one query resent", st)
	}
}

// TestSlowServer: a server that answers later than the silence timeout gets no more queries on that
// connection, and its late reply counts.
func TestSlowServer(t *testing.T) {
	release := make(chan struct{})
	s := servertest.ServeQUIC(t, dnstest.Hold(release, servertest.Zone(t)), nil)
	servertest.MustBeSlow(t, newClient(t, s, nil), release, func() int64 { return s.Queries.Load() })
}

// TestDialErrors: what operators read if there is no such server.
func TestDialErrors(t *testing.T) {
	s := servertest.ServeQUIC(t, servertest.Zone(t), nil)
	web := servertest.ServeWeb(t, transport.DoH3, servertest.Zone(t), nil)
	for want, change := range map[string]func(*transport.Config){
		"nothing listens on UDP port 9 there": func(cfg *transport.Config) { cfg.Server.Addr = netip.MustParseAddrPort("127.0.0.1:9") },
		"not for other.example":               func(cfg *transport.Config) { cfg.Server.Name = "other.example" },
		"does not support DNS over QUIC":      func(cfg *transport.Config) { cfg.Server.Addr = web.Addr },
	} {
		cl := newClient(t, s, change)
		if _, err := servertest.Ask(t, cl, "www.example."); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		// It is reported after the queries have been woken.
		servertest.Eventually(t, "the failure is reported", func() bool { return cl.DialFailures.Load() >= 1 })
	}
}

// TestCancel: a query that is canceled sends STOP_SENDING with DOQ_REQUEST_CANCELLED (RFC 9250
// §4.3.1), and closing waits for no server.
func TestCancel(t *testing.T) {
	stopped := make(chan error, 1)
	s := servertest.ServeQUIC(t, servertest.Zone(t), func(s *servertest.QUIC) {
		s.Intercept = func(c *quic.Conn, stream *quic.Stream, query []byte) bool {
			<-stream.Context().Done()
			stopped <- context.Cause(stream.Context())
			return true
		}
	})
	cfg := transport.Config{Server: s.Server(), RootCAs: servertest.CA().Pool, DialTimeout: time.Minute}
	d := secure.NewDialer(&cfg, alpn, true)
	c, err := open(t.Context(), &cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.RoundTrip(ctx, servertest.Query("www.example.", dnstest.TypeA))
		done <- err
	}()
	servertest.Eventually(t, "the query arrives", func() bool { return s.Queries.Load() >= 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	var reset *quic.StreamError
	if err := <-stopped; !errors.As(err, &reset) || reset.ErrorCode != requestCancelled {
		t.Errorf("the server saw %v, want DOQ_REQUEST_CANCELLED", err)
	}
	c.Close(nil)
	c.Close(nil)
	if _, err := c.RoundTrip(t.Context(), servertest.Query("www.example.", dnstest.TypeA)); err == nil {
		t.Error("a query on a closed connection")
	}
}
