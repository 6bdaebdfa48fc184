// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/internal/dnstest"
)

// lockedBuffer is a buffer that several goroutines log to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestLog: silence while all is well, one line when a server fails and one when
// it is well again, however often in between.
func TestLog(t *testing.T) {
	var out lockedBuffer
	s := serve(t, zone(t), nil)
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: testName}},
		Log:     slog.New(slog.NewTextHandler(&out, nil)),
	})
	mustAsk(t, g, "www.example.")
	s.EndConns(dnstest.Close)
	mustAsk(t, g, "www.example.")
	if out.String() != "" {
		t.Errorf("all is well, but the log has %q", out.String())
	}
	e := g.endpoints[0]
	for range 5 {
		e.failed(time.Now(), errTimeout)
		e.failed(time.Now(), errTimeout)
		mustAsk(t, g, "www.example.")
	}
	log := out.String()
	if strings.Count(log, "level=WARN") != 1 || strings.Count(log, "level=INFO") != 1 || !strings.Contains(log, testName) {
		t.Errorf("the log is\n%s", log)
	}
}

// TestLogUntrusted: that a server which fails is, besides, not to be trusted is news, once.
func TestLogUntrusted(t *testing.T) {
	var out lockedBuffer
	s := serve(t, zone(t), nil)
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: testName}},
		Log:     slog.New(slog.NewTextHandler(&out, nil)),
	})
	e := g.endpoints[0]
	for range 3 {
		e.failed(time.Now(), errTimeout)
		e.failed(time.Now(), &dialError{&trustError{reason: "somebody else's certificate"}})
	}
	mustAsk(t, g, "www.example.")
	log := out.String()
	if strings.Count(log, "level=WARN") != 2 || strings.Count(log, "somebody else's") != 1 || strings.Count(log, "level=INFO") != 1 {
		t.Errorf("the log is\n%s", log)
	}
}
