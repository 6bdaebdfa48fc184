// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestLog: nothing is logged while a server is healthy, one line when it fails and one when
// it recovers, however often that happens.
func TestLog(t *testing.T) {
	var out servertest.LogBuffer
	s := servertest.Serve(t, servertest.Zone(t), nil)
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: servertest.Name}},
		Log:     slog.New(slog.NewTextHandler(&out, nil)),
	})
	servertest.MustAsk(t, g, "www.example.")
	s.EndConns(dnstest.Close)
	servertest.MustAsk(t, g, "www.example.")
	if out.String() != "" {
		t.Errorf("without a failure the log is %q", out.String())
	}
	e := g.endpoints[0]
	for range 5 {
		e.failed(time.Now(), transport.ErrTimeout)
		e.failed(time.Now(), transport.ErrTimeout)
		servertest.MustAsk(t, g, "www.example.")
	}
	log := out.String()
	if strings.Count(log, "level=WARN") != 1 || strings.Count(log, "level=INFO") != 1 || !strings.Contains(log, servertest.Name) {
		t.Errorf("the log is\n%s", log)
	}
}

// TestLogUntrusted: an authentication failure is logged even if the server failed before,
// once.
func TestLogUntrusted(t *testing.T) {
	var out servertest.LogBuffer
	s := servertest.Serve(t, servertest.Zone(t), nil)
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: servertest.Name}},
		Log:     slog.New(slog.NewTextHandler(&out, nil)),
	})
	e := g.endpoints[0]
	for range 3 {
		e.failed(time.Now(), transport.ErrTimeout)
		e.failed(time.Now(), &transport.DialError{Err: &transport.TrustError{Reason: "a certificate of another server"}})
	}
	servertest.MustAsk(t, g, "www.example.")
	log := out.String()
	if strings.Count(log, "level=WARN") != 2 || strings.Count(log, "a certificate of another server") != 1 || strings.Count(log, "level=INFO") != 1 {
		t.Errorf("the log is\n%s", log)
	}
}
