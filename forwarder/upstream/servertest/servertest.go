// SPDX-License-Identifier: Apache-2.0

// Package servertest runs DNS servers on loopback for the tests of upstream groups and of
// transports, and sends queries to them. It is for tests only.
package servertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// Name is the name in the certificate of each server.
const Name = "dot.example"

// Loopback is the address of each server.
var Loopback = netip.MustParseAddr("127.0.0.1")

// CA returns the CA that issues all certificates. There is one, because making it takes a
// while under the race detector.
var CA = sync.OnceValue(func() *dnstest.CA {
	ca, err := dnstest.NewCA()
	if err != nil {
		panic(err)
	}
	return ca
})

// Issue issues a certificate, for Name and Loopback unless opts has others.
func Issue(tb testing.TB, opts dnstest.CertOptions) tls.Certificate {
	tb.Helper()
	if len(opts.Names)+len(opts.IPs) == 0 {
		opts.Names, opts.IPs = []string{Name}, []netip.Addr{Loopback}
	}
	cert, err := CA().Issue(opts)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// Zone returns a handler that answers every name.
func Zone(tb testing.TB) *dnstest.Zone {
	tb.Helper()
	z, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

// Serve runs a DNS-over-TLS server until the test ends. change, unless nil, may change its
// configuration.
func Serve(tb testing.TB, h dnstest.Handler, change func(*dnstest.Config)) *dnstest.Server {
	tb.Helper()
	return ServeAt(tb, netip.AddrPortFrom(Loopback, 0), h, change)
}

// ServeAt is Serve at that address.
func ServeAt(tb testing.TB, at netip.AddrPort, h dnstest.Handler, change func(*dnstest.Config)) *dnstest.Server {
	tb.Helper()
	l, err := dnstest.Listen(at)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := dnstest.Config{Handler: h, TLS: []net.Listener{l}}
	if change != nil {
		change(&cfg)
	}
	if cfg.Certificate.Certificate == nil {
		cfg.Certificate = Issue(tb, dnstest.CertOptions{})
	}
	s, err := dnstest.New(cfg)
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

// ServeConns runs a server that authenticates itself and then leaves each connection to
// behave, until that returns. change, unless nil, may change its configuration.
func ServeConns(t *testing.T, change func(*dnstest.Config), behave func(c *tls.Conn)) *dnstest.Server {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{Issue(t, dnstest.CertOptions{})}, NextProtos: []string{"dot"}}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // runs after the server and its clients are closed
	return Serve(t, Zone(t), func(cfg *dnstest.Config) {
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

// SmallBuffer gives a socket buffers that are as small as the kernel allows.
func SmallBuffer(_, _ string, c syscall.RawConn) (err error) {
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

// SmallBuffers makes a server listen with such buffers.
func SmallBuffers(t *testing.T) func(*dnstest.Config) {
	return func(cfg *dnstest.Config) {
		at := cfg.TLS[0].Addr().String()
		_ = cfg.TLS[0].Close()
		l, err := (&net.ListenConfig{Control: SmallBuffer}).Listen(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		cfg.TLS[0] = l
	}
}

// Stray returns the frame of a reply to a query that was never sent.
func Stray() []byte {
	msg := Query("stray.example.", dnstest.TypeA)
	msg[2] |= 0x80
	return dnstest.Frame(msg)
}

// Query returns a query as the forwarder sends it.
func Query(name string, qtype uint16) []byte {
	msg := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		msg = append(msg, byte(len(label)))
		msg = append(msg, label...)
	}
	msg = append(msg, 0)
	msg = binary.BigEndian.AppendUint16(msg, qtype)
	msg = append(msg, 0, 1)
	q, err := wire.ParseQuery(msg)
	if err != nil {
		panic(err)
	}
	return wire.AppendQuery(nil, &q)
}

// Exchanger is an upstream group or a client of one transport.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error)
}

// Deadline returns a time that is later than the timeouts of any test.
func Deadline() time.Time { return time.Now().Add(10 * time.Second) }

// Ask asks for the A record of a name, and checks that the reply has that question.
func Ask(tb testing.TB, x Exchanger, name string) ([]byte, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return AskContext(ctx, tb, x, name)
}

// AskContext is Ask with a context.
func AskContext(ctx context.Context, tb testing.TB, x Exchanger, name string) ([]byte, error) {
	tb.Helper()
	q := Query(name, dnstest.TypeA)
	sent := bytes.Clone(q)
	reply, err := x.Exchange(ctx, sent, Deadline())
	clear(sent) // it belongs to the caller again, which the race detector checks
	if err != nil {
		var e *transport.Error
		if !errors.As(err, &e) {
			tb.Errorf("%s: the error is not an *Error: %v", name, err)
		}
		return nil, err
	}
	if !wire.SameQuestion(q, reply) {
		tb.Errorf("%s: the reply has another question: %x", name, reply)
	}
	if wire.ID(reply) != 0 {
		tb.Errorf("%s: the reply has ID %d, want 0", name, wire.ID(reply))
	}
	return reply, nil
}

// MustAsk is Ask, and fails the test on an error.
func MustAsk(tb testing.TB, x Exchanger, name string) []byte {
	tb.Helper()
	reply, err := Ask(tb, x, name)
	if err != nil {
		tb.Fatalf("ask for %s: %v", name, err)
	}
	return reply
}

// WantEDE checks the EDE that a client receives for an error.
func WantEDE(t *testing.T, err error, code uint16, texts ...string) {
	t.Helper()
	var e *transport.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	ede := e.EDE()
	if ede.Code != code {
		t.Errorf("EDE %d %q, want code %d", ede.Code, ede.Text, code)
	}
	for _, text := range texts {
		if !strings.Contains(ede.Text, text) {
			t.Errorf("EDE %q does not contain %q", ede.Text, text)
		}
	}
	if len(ede.Text) > transport.MaxText || strings.ContainsAny(ede.Text, "\n\r") {
		t.Errorf("EDE of %d bytes: %q", len(ede.Text), ede.Text)
	}
}

// Eventually waits until ok reports true. It fails the test after thirty seconds.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	tb.Fatalf("timeout: %s", what)
}

// Skip skips the test, or fails it where no test may be skipped.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("SOTTO_REQUIRE_PRIVILEGED") == "1" {
		t.Fatalf("%s, and SOTTO_REQUIRE_PRIVILEGED=1", why)
	}
	t.Skipf("skipped: %s", why)
}

// methods matches the methods of package upstream and of the packages below it in a stack,
// except this one.
var methods = regexp.MustCompile(`sotto/forwarder/upstream(/[^s]\w+|/s[^e]\w+|/secure)?\.\(\*`)

// Goroutines returns the stacks of the goroutines that run such a method, which is true for
// all goroutines of these packages.
func Goroutines() string {
	buf := make([]byte, 1<<20)
	var running []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if methods.MatchString(stack) {
			running = append(running, stack)
		}
	}
	return strings.Join(running, "\n\n")
}

// LogBuffer is a buffer for concurrent writers.
type LogBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements [io.Writer].
func (b *LogBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written.
func (b *LogBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
