// SPDX-License-Identifier: Apache-2.0

// Command upstream sends the same queries to a forwarder and to the server behind it, and
// compares the replies. scripts/upstream-test.sh runs it while connections are disturbed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// kinds are the types that are asked for below each name of the zone.
var kinds = []struct {
	label string
	qtype uint16
}{
	{"a", dns.TypeA}, {"a", dns.TypeAAAA}, {"a", dns.TypeA}, {"a", dns.TypeMX}, {"txt", dns.TypeTXT}, {"big", dns.TypeTXT},
	{"mx", dns.TypeMX}, {"cname", dns.TypeA}, {"none", dns.TypeA}, {"srv", dns.TypeSRV}, {"a", dns.TypeHTTPS},
}

// result counts the comparisons.
type result struct {
	same, lost, different, failed atomic.Int64
	mu                            sync.Mutex
	times                         []time.Duration
	examples                      []string
}

func (r *result) example(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.examples) < 5 {
		r.examples = append(r.examples, fmt.Sprintf(format, args...))
	}
}

func main() {
	forwarder := flag.String("forwarder", "127.0.0.1:5301", "address of the forwarder")
	direct := flag.String("direct", "127.0.0.1:5300", "address of the server")
	zone := flag.String("zone", "compare.test.", "zone that the server has")
	count := flag.Int("n", 30000, "number of queries")
	rate := flag.Int("rate", 1500, "queries a second")
	pause := flag.Duration("pause", 3*time.Second, "pause after each third of the queries, in which idle connections close")
	prefix := flag.String("prefix", "n", "of the names, so that no cache has them")
	flag.Parse()
	if err := run(*forwarder, *direct, *zone, *prefix, *count, *rate, *pause); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(forwarder, direct, zone, prefix string, count, rate int, pause time.Duration) error {
	var r result
	var wg sync.WaitGroup
	work := make(chan int, rate)
	for range 64 {
		wg.Go(func() {
			for i := range work {
				k := kinds[i%len(kinds)]
				r.compare(forwarder, direct, fmt.Sprintf("%s%d.%s.%s", prefix, i, k.label, zone), k.qtype)
			}
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < count; {
		<-tick.C
		for range max(1, rate/100) {
			if i < count {
				work <- i
				i++
			}
		}
		if third := count / 3; i/third != (i-rate/100)/third && i < count {
			time.Sleep(pause)
		}
	}
	close(work)
	wg.Wait()
	slices.Sort(r.times)
	at := func(q float64) time.Duration {
		return r.times[min(len(r.times)-1, int(q*float64(len(r.times))))].Round(10 * time.Microsecond)
	}
	fmt.Printf("%d queries: %d same, %d lost, %d SERVFAIL, %d different; p50 %v, p99 %v, max %v\n",
		count, r.same.Load(), r.lost.Load(), r.failed.Load(), r.different.Load(), at(0.5), at(0.99), at(1))
	for _, e := range r.examples {
		fmt.Println("   " + e)
	}
	if r.same.Load() != int64(count) {
		return errors.New("not all replies are the same")
	}
	return nil
}

// compare asks both for one name.
func (r *result) compare(forwarder, direct, name string, qtype uint16) {
	q := new(dns.Msg).SetQuestion(name, qtype)
	q.SetEdns0(1232, false)
	want, err := ask(q, direct)
	if err != nil {
		r.example("the server does not answer %s: %v", name, err)
		r.lost.Add(1)
		return
	}
	started := time.Now()
	got, err := ask(q, forwarder)
	took := time.Since(started)
	r.mu.Lock()
	r.times = append(r.times, took)
	r.mu.Unlock()
	switch {
	case err != nil:
		r.lost.Add(1)
		r.example("lost %s %s after %v: %v", name, dns.TypeToString[qtype], took, err)
	case got.Rcode == dns.RcodeServerFailure && want.Rcode != dns.RcodeServerFailure:
		r.failed.Add(1)
		r.example("SERVFAIL for %s %s after %v: %v", name, dns.TypeToString[qtype], took, got.IsEdns0())
	case text(got) != text(want) || !sameAge(got, want):
		r.different.Add(1)
		r.example("%s %s: got %s, want %s", name, dns.TypeToString[qtype], text(got), text(want))
	default:
		r.same.Add(1)
	}
}

// ask sends a query over UDP, and over TCP if the reply is truncated.
func ask(q *dns.Msg, to string) (*dns.Msg, error) {
	q = q.Copy()
	q.Id = dns.Id()
	reply, _, err := (&dns.Client{Timeout: 5 * time.Second, UDPSize: 1232}).Exchange(q, to)
	if err == nil && reply.Truncated {
		reply, _, err = (&dns.Client{Net: "tcp", Timeout: 5 * time.Second}).Exchange(q, to)
	}
	return reply, err
}

// sameAge reports whether the TTLs differ by a few seconds at most: the server may be a cache.
func sameAge(got, want *dns.Msg) bool {
	const few = 10
	lowest := func(m *dns.Msg) (ttl int64) {
		ttl = math.MaxInt32
		for _, rr := range m.Answer {
			ttl = min(ttl, int64(rr.Header().Ttl))
		}
		return ttl
	}
	difference := lowest(want) - lowest(got)
	return -few <= difference && difference <= few
}

// text returns what is compared: the rcode, and the records of answer and authority without
// their TTLs, in any order.
func text(m *dns.Msg) string {
	m = m.Copy()
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		rr.Header().Ttl = 0
	}
	var lines []string
	for _, rr := range m.Answer {
		lines = append(lines, "answer "+rr.String())
	}
	for _, rr := range m.Ns {
		if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 { // others may leave out the rest
			lines = append(lines, "authority "+rr.String())
		}
	}
	slices.Sort(lines)
	return dns.RcodeToString[m.Rcode] + " " + strings.Join(lines, " | ")
}
