// SPDX-License-Identifier: Apache-2.0

package original

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// renewal is a lab with one nameserver, whose designation changes.
type renewal struct {
	*lab
	nameserver string
	records    atomic.Pointer[[]string]
}

func newRenewal(t *testing.T, nameserver string, records ...string) *renewal {
	r := &renewal{nameserver: nameserver}
	r.records.Store(&records)
	r.lab = newLab(t, func(cfg *Config) {
		cfg.Discovery, cfg.port = WithDDR, 1
		cfg.Ask = func(_ context.Context, _ netip.AddrPort, query []byte, _ time.Time) ([]byte, error) {
			var q dns.Msg
			if err := q.Unpack(query); err != nil {
				return nil, err
			}
			return reply(t, &q, *r.records.Load())
		}
	})
	return r
}

// of returns the nameserver.
func (r *renewal) of() *Nameserver {
	return r.u.For(netip.AddrPortFrom(netip.MustParseAddr(r.nameserver), plainPort))
}

// renew lets the designation expire. The next one has these records. It returns when that was
// examined.
func (r *renewal) renew(records ...string) {
	r.t.Helper()
	r.records.Store(&records)
	n := r.of()
	n.mu.Lock()
	expired := n.found
	expired.expires = time.Now().Add(-time.Second)
	n.mu.Unlock()
	if _, err := r.ask(r.nameserver, "renew.example."); err != nil {
		r.t.Fatal(err)
	}
	servertest.Eventually(r.t, "the designation is renewed", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.found != expired && n.pending == nil
	})
}

// answeredBy fails unless that server answers.
func (r *renewal) answeredBy(s *dnstest.Server) {
	r.t.Helper()
	got, err := r.ask(r.nameserver, "www.example.")
	if err != nil || !strings.HasPrefix(got, s.Addr().String()) {
		r.t.Errorf("answered by %q, %v, want %s", got, err, s.Addr())
	}
}

// replaced returns the number of groups that wait for their queries.
func (r *renewal) replaced() int {
	n := r.of()
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.replaced)
}

// serveHeld is like serve, and answers a query for a name that starts with "held" when release is
// closed.
func serveHeld(t *testing.T, at, valid string, release <-chan struct{}) *dnstest.Server {
	t.Helper()
	z := servertest.Zone(t)
	return servertest.ServeAt(t, netip.AddrPortFrom(netip.MustParseAddr(at), 0), dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if strings.HasPrefix(string(r.Query[13:]), "held") {
			a.Wait = release
		}
		return a
	}), func(cfg *dnstest.Config) {
		cfg.Certificate = servertest.Issue(t, dnstest.CertOptions{IPs: []netip.Addr{netip.MustParseAddr(valid)}})
	})
}

// hold sends a query that first does not answer yet.
func (r *renewal) hold(first *dnstest.Server) <-chan error {
	r.t.Helper()
	before := first.Stats().Queries()
	done := make(chan error, 1)
	go func() {
		_, err := r.ask(r.nameserver, "held.example.")
		done <- err
	}()
	servertest.Eventually(r.t, "the query is in flight", func() bool { return first.Stats().Queries() > before })
	return done
}

// TestRenewal: when another server is designated, queries in flight to the one before are answered,
// and its connections are closed afterwards.
func TestRenewal(t *testing.T) {
	const nameserver = "127.0.7.71"
	release := make(chan struct{})
	first := serveHeld(t, "127.0.7.72", nameserver, release)
	second := serve(t, "127.0.7.73", 0, nameserver)
	r := newRenewal(t, nameserver, svcb(1, first, "dot"))
	r.answeredBy(first)
	held := r.hold(first)
	r.renew(svcb(1, second, "dot"))
	r.answeredBy(second)
	r.u.closeIdle(time.Now().Add(time.Hour))
	if r.replaced() != 1 || r.of().close(false) {
		t.Error("the group was closed with a query in flight")
	}
	close(release)
	if err := <-held; err != nil {
		t.Errorf("the query in flight: %v", err)
	}
	if r.replaced() != 0 {
		t.Error("the group before is open")
	}
	r.renew(svcb(1, first, "dot")) // without a query in flight
	r.answeredBy(first)
	if r.replaced() != 0 {
		t.Error("the group before is open")
	}
}

// TestCloseRenewed: Close fails the queries in flight to a server that was replaced.
func TestCloseRenewed(t *testing.T) {
	const nameserver = "127.0.7.75"
	first := serveHeld(t, "127.0.7.76", nameserver, make(chan struct{}))
	r := newRenewal(t, nameserver, svcb(1, first, "dot"))
	r.answeredBy(first)
	held := r.hold(first)
	r.renew(svcb(1, serve(t, "127.0.7.77", 0, nameserver), "dot"))
	if err := r.u.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-held; !errors.Is(err, errFallback) {
		t.Errorf("the query in flight: %v", err)
	}
}

// TestRenewalKeeps: the server in use stays while it is among the best, in whatever order servers
// and addresses are listed.
func TestRenewalKeeps(t *testing.T) {
	const nameserver = "127.0.7.81"
	first, second := serve(t, "127.0.7.82", 0, nameserver), serve(t, "127.0.7.83", 0, nameserver)
	r := newRenewal(t, nameserver, svcb(2, first, "dot"), svcb(2, second, "dot"))
	r.answeredBy(first)
	r.renew(svcb(2, second, "dot"), svcb(2, first, "dot"))
	r.answeredBy(first)
	both := func(a, b string) string {
		return fmt.Sprintf(`_dns.resolver.arpa. 300 SVCB 1 dot.example. alpn="dot" port=%d ipv4hint=%s,%s`, first.Addr().Port(), a, b)
	}
	r.renew(both("127.0.7.82", "127.0.7.84")) // a better priority
	server := r.stats(nameserver).Server
	r.renew(both("127.0.7.84", "127.0.7.82"))
	if got := r.stats(nameserver).Server; got != server {
		t.Errorf("the server is %s, was %s", got, server)
	}
	r.renew(svcb(2, second, "dot"), svcb(3, first, "dot"))
	r.answeredBy(second)
}

// TestPreferCurrent: only servers of the same priority change places.
func TestPreferCurrent(t *testing.T) {
	at := func(how string, priority uint16, host byte) found {
		f := found{how: how, priority: priority}
		f.server.Protocol, f.server.Addr = transport.DoT, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 853)
		return f
	}
	for current, want := range map[byte]string{1: "1234", 2: "1234", 3: "1324", 4: "1234", 5: "1234"} {
		list := []found{at("ddr", 1, 1), at("ddr", 2, 2), at("ddr", 2, 3), at("tls", 0, 4)}
		how := "ddr"
		if current == 4 {
			how = "tls"
		}
		f := at(how, 9, current)
		preferCurrent(list, &f)
		got := ""
		for _, f := range list {
			got += fmt.Sprint(f.server.Addr.Addr().As4()[3])
		}
		if got != want {
			t.Errorf("with %d in use: %s, want %s", current, got, want)
		}
	}
}
