// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

const (
	typeA    = dnstest.TypeA
	typeTXT  = dnstest.TypeTXT
	testName = "dot.example"
)

// testCA issues all certificates of the tests; making one takes a while under
// -race.
var testCA = sync.OnceValue(func() *dnstest.CA {
	ca, err := dnstest.NewCA()
	if err != nil {
		panic(err)
	}
	return ca
})

var loopback = netip.MustParseAddr("127.0.0.1")

func issue(tb testing.TB, opts dnstest.CertOptions) tls.Certificate {
	tb.Helper()
	if len(opts.Names)+len(opts.IPs) == 0 {
		opts.Names, opts.IPs = []string{testName}, []netip.Addr{loopback}
	}
	cert, err := testCA().Issue(opts)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func zone(tb testing.TB) *dnstest.Zone {
	tb.Helper()
	z, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

// serve runs a server on loopback until the test ends. change may alter its
// configuration.
func serve(tb testing.TB, h dnstest.Handler, change func(*dnstest.Config)) *dnstest.Server {
	tb.Helper()
	return serveAt(tb, netip.AddrPortFrom(loopback, 0), h, change)
}

func serveAt(tb testing.TB, at netip.AddrPort, h dnstest.Handler, change func(*dnstest.Config)) *dnstest.Server {
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
		cfg.Certificate = issue(tb, dnstest.CertOptions{})
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

// group asks those servers, by name and with the test's CA.
func group(tb testing.TB, servers ...*dnstest.Server) *Group {
	tb.Helper()
	var cfg Config
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, Server{Addr: s.Addr(), Name: testName})
	}
	return groupOf(tb, cfg)
}

func groupOf(tb testing.TB, cfg Config) *Group {
	tb.Helper()
	if cfg.RootCAs == nil {
		cfg.RootCAs = testCA().Pool()
	}
	g, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := g.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return g
}

// query is what the forwarder would ask.
func query(name string, qtype uint16) []byte {
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

// ask asks for the A record of a name, and checks that it is the one's asked.
func ask(tb testing.TB, g *Group, name string) ([]byte, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return askCtx(ctx, tb, g, name)
}

// inAWhile is a deadline beyond what the Config of any test sets.
func inAWhile() time.Time { return time.Now().Add(10 * time.Second) }

func askCtx(ctx context.Context, tb testing.TB, g *Group, name string) ([]byte, error) {
	tb.Helper()
	q := query(name, typeA)
	given := bytes.Clone(q)
	reply, err := g.Exchange(ctx, given, inAWhile())
	clear(given) // it is the caller's again, which -race holds
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			tb.Errorf("%s: the error is no *Error: %v", name, err)
		}
		return nil, err
	}
	if !wire.SameQuestion(q, reply) {
		tb.Errorf("%s: the reply is to another question: %x", name, reply)
	}
	if wire.ID(reply) != 0 {
		tb.Errorf("%s: the reply has ID %d, want 0", name, wire.ID(reply))
	}
	return reply, nil
}

// mustAsk is ask where an answer is due.
func mustAsk(tb testing.TB, g *Group, name string) []byte {
	tb.Helper()
	reply, err := ask(tb, g, name)
	if err != nil {
		tb.Fatalf("ask for %s: %v", name, err)
	}
	return reply
}

// eventually waits until what becomes true; the time is a bound, no measure.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	tb.Fatalf("never: %s", what)
}

// poolOf is the transport of the first server.
func poolOf(g *Group) *pool { return g.endpoints[0].link.(*pool) }
