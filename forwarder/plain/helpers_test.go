// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// serve answers over UDP and TCP until the test ends.
func serve(tb testing.TB, at netip.Addr, h dnstest.Handler) *dnstest.Server {
	tb.Helper()
	l, pc, err := dnstest.ListenPlain(netip.AddrPortFrom(at, 0))
	if err != nil {
		tb.Skipf("no socket on %s: %v", at, err)
	}
	s, err := dnstest.New(dnstest.Config{Handler: h, TCP: []net.Listener{l}, UDP: []net.PacketConn{pc}, LogQueries: 1000})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return s
}

func zone(tb testing.TB) *dnstest.Zone {
	tb.Helper()
	z, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

// echo answers with the query as a reply.
func echo() dnstest.Handler {
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		msg := append([]byte(nil), r.Query...)
		msg[2] |= bitQR
		return dnstest.Answer{Msg: msg}
	})
}

func pack(tb testing.TB, m *dns.Msg) []byte {
	tb.Helper()
	b, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// ask returns a query as a client sends it.
func ask(tb testing.TB, name string, typ uint16) []byte {
	tb.Helper()
	m := new(dns.Msg).SetQuestion(name, typ)
	m.Id = 0x1234
	return pack(tb, m)
}

// inAWhile returns a time that no passing test reaches.
func inAWhile() time.Time { return time.Now().Add(30 * time.Second) }

// soon returns a deadline for what is expected to time out.
func soon() time.Time { return time.Now().Add(300 * time.Millisecond) }

// fails checks an error's kind.
func fails(tb testing.TB, err error, code uint16, cause error, text string) {
	tb.Helper()
	var e *Error
	if !errors.As(err, &e) {
		tb.Fatalf("%v is not an *Error", err)
	}
	if ede := e.EDE(); ede.Code != code || len(ede.Text) > 200 || ede.Text != e.Server.String()+": "+e.Reason {
		tb.Errorf("%v: EDE %+v, want code %d", err, ede, code)
	}
	if cause != nil && !errors.Is(err, cause) {
		tb.Errorf("%v: the cause is not %v", err, cause)
	}
	if e.Reason != text {
		tb.Errorf("%q: want %q", e.Reason, text)
	}
}

// both runs a test over UDP and over TCP.
func both(t *testing.T, test func(t *testing.T, tcp bool)) {
	t.Run("udp", func(t *testing.T) { test(t, false) })
	t.Run("tcp", func(t *testing.T) { test(t, true) })
}

// sameButID reports whether a and b are equal except for the ID.
func sameButID(a, b []byte) bool {
	return len(a) == len(b) && len(a) >= wire.HeaderLen && string(a[2:]) == string(b[2:])
}
