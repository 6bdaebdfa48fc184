// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream/address"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
)

// TestCompare compares the replies of a server over an encrypted protocol with those of the
// same server, or of the one behind it, over plain DNS, while connections are disturbed. It
// needs such servers, which scripts/upstream/doq.sh starts:
//
//	SOTTO_COMPARE          the server, as an upstream is configured
//	SOTTO_COMPARE_DIRECT   ADDR:PORT for plain DNS
//	SOTTO_COMPARE_CA       PEM file of the CA
//	SOTTO_COMPARE_RESTART  a command that kills the server and starts it again; optional
//	SOTTO_COMPARE_QUERIES  their number
func TestCompare(t *testing.T) {
	text := os.Getenv("SOTTO_COMPARE")
	if text == "" {
		t.Skip("SOTTO_COMPARE is not set: run scripts/upstream/doq.sh")
	}
	servers, err := address.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(os.Getenv("SOTTO_COMPARE_CA"))
	if err != nil {
		t.Fatal(err)
	}
	total, err := strconv.Atoi(os.Getenv("SOTTO_COMPARE_QUERIES"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	server := servers[0]
	relay := servertest.NewRelay(t, server.Protocol.Network(), server.Addr)
	server.Addr = relay.Addr
	g := groupOf(t, Config{Servers: []Server{server}, RootCAs: func() *x509.CertPool { return roots }})
	c := comparison{T: t, g: g, direct: os.Getenv("SOTTO_COMPARE_DIRECT"), rcodes: map[int]int{}}
	if _, err := netip.ParseAddrPort(c.direct); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { c.disturb(ctx, relay) })
	c.run(total)
	stop()
	wg.Wait()
	st := g.Stats().Servers[0]
	t.Logf("%s: %d queries equal, %d truncated by the server, %d different, %d lost; rcodes %v; %d disturbances", text, c.equal.Load(), c.truncated.Load(), c.different.Load(), c.lost.Load(), c.rcodes, c.disturbances)
	t.Logf("%d connections (%d failed, %d resumed), %d queries in flight when one closed, %d resent, %d late, usual time %s",
		st.Dials, st.DialErrors, st.Resumed, st.Lost, st.Resent, st.Late, st.EWMA)
}

// comparison is one run.
type comparison struct {
	*testing.T
	g      *Group
	direct string

	equal, different, lost atomic.Int64
	truncated              atomic.Int64 // by the server, and equal otherwise
	disturbances           int

	mu     sync.Mutex
	rcodes map[int]int
}

// run asks total queries, a few hundred per second, 32 at a time, with pauses in which the
// server closes idle connections.
func (c *comparison) run(total int) {
	const workers, perSecond, pauseEvery, pause = 32, 600, 5000, 6 * time.Second
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := range jobs {
				c.compare(n)
			}
		})
	}
	started := time.Now()
	for n := range total {
		time.Sleep(time.Until(started.Add(time.Duration(n)*time.Second/perSecond + time.Duration(n/pauseEvery)*pause)))
		jobs <- n
	}
	close(jobs)
	wg.Wait()
}

// disturb breaks connections in turn, until ctx is canceled.
func (c *comparison) disturb(ctx context.Context, relay *servertest.Relay) {
	kinds := []func(){func() { _ = relay.DropOpen() }, c.g.NetworkChanged}
	if command := os.Getenv("SOTTO_COMPARE_RESTART"); command != "" {
		kinds = append(kinds, func() {
			if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
				c.Errorf("restart: %v\n%s", err, out)
			}
		})
	}
	for tick := time.NewTicker(4 * time.Second); ; c.disturbances++ {
		select {
		case <-tick.C:
			kinds[c.disturbances%len(kinds)]()
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// compare asks one query both ways.
func (c *comparison) compare(n int) {
	m := mixedQuery(n)
	msg, err := m.Pack()
	if err != nil {
		c.Error(err)
		return
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		c.Error(err)
		return
	}
	raw, err := c.g.Exchange(c.Context(), wire.AppendQuery(nil, &q), time.Now().Add(10*time.Second))
	if err != nil {
		c.lost.Add(1)
		c.Errorf("%s: %v", m.Question[0].String(), err)
		return
	}
	got := new(dns.Msg)
	if err := got.Unpack(raw); err != nil {
		c.Errorf("%s: %v", m.Question[0].String(), err)
		return
	}
	client := dns.Client{Net: "tcp", Timeout: 5 * time.Second}
	want, _, err := client.Exchange(m, c.direct)
	if err != nil {
		c.Errorf("%s, directly: %v", m.Question[0].String(), err)
		return
	}
	c.mu.Lock()
	c.rcodes[got.Rcode]++
	c.mu.Unlock()
	if got.Truncated && got.Rcode == want.Rcode && isSubset(got.Answer, want.Answer) {
		c.truncated.Add(1) // CoreDNS limits replies over QUIC to the EDNS size, as over UDP
		return
	}
	if a, b := essence(got), essence(want); a != b {
		c.different.Add(1)
		c.Errorf("%s:\n%s\ndirectly:\n%s", m.Question[0].String(), a, b)
		return
	}
	c.equal.Add(1)
}

// mixedQuery returns the nth query: names that exist with small and large records, aliases,
// names that do not exist, and types that a name does not have, with and without DNSSEC.
func mixedQuery(n int) *dns.Msg {
	r := rand.New(rand.NewPCG(uint64(n), 9250))
	names := []string{"www", "many", "large", "alias", "deep.alias", fmt.Sprintf("n%d.wild", n), fmt.Sprintf("no%d", n), "mail"}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeHTTPS, dns.TypeSOA}
	m := new(dns.Msg)
	m.SetQuestion(names[r.IntN(len(names))]+".zone.example.", types[r.IntN(len(types))])
	m.SetEdns0(4096, r.IntN(3) == 0)
	return m
}

// isSubset reports whether all records of a are in b.
func isSubset(a, b []dns.RR) bool {
	return !slices.ContainsFunc(a, func(rr dns.RR) bool {
		return !slices.ContainsFunc(b, func(other dns.RR) bool { return dns.IsDuplicate(rr, other) })
	})
}

// essence returns what a client depends on in a reply, without TTLs, which a cache may change.
func essence(m *dns.Msg) string {
	sections := []string{dns.RcodeToString[m.Rcode], m.Question[0].String(), fmt.Sprint("TC ", m.Truncated)}
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		var lines []string
		for _, rr := range section {
			rr = dns.Copy(rr)
			rr.Header().Ttl = 0
			lines = append(lines, strings.ToLower(rr.String()))
		}
		slices.Sort(lines)
		sections = append(sections, strings.Join(lines, "\n"))
	}
	return strings.Join(sections, "\n")
}
