// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// TestStaleTimer: when the time for the upstream is over, the queries of the flight get what the cache
// has. If that is nothing any more, they wait for the upstream. Only a stale answer counts as one that
// could not be refreshed.
func TestStaleTimer(t *testing.T) {
	m := withEDNS("www.example.com", dns.TypeA)
	key := wire.AppendKey(nil, queryOf(t, "www.example.com"))
	for what, tc := range map[string]struct {
		change        func(c *cache.Cache)
		stale, failed bool
		upstream      bool // its answer is needed
	}{
		"stale":   {change: func(*cache.Cache) {}, stale: true, failed: true},
		"flushed": {change: (*cache.Cache).Flush, upstream: true},
		"refreshed": {change: func(c *cache.Cache) {
			var a cache.Answer
			put(t, c, m, 0)
			c.Peek(key, time.Now(), &a)
			put(t, c, m, time.Duration(a.Reply.TTL-20)*time.Second)
		}},
	} {
		release := make(chan struct{})
		var asked atomic.Int64
		c := staleCache(t)
		f, at := startForwarder(t, Config{Upstream: delayedUpstream(t, release, &asked), Cache: c, StaleAfter: time.Hour, Timeout: time.Minute}, "127.0.0.1:0")
		put(t, c, m, 30*time.Minute)
		reply := make(chan *dns.Msg, 1)
		go func() {
			r, _, err := (&dns.Client{Net: "tcp", Timeout: time.Minute}).Exchange(m, at.String())
			if err != nil {
				r = new(dns.Msg)
			}
			reply <- r
		}()
		waitFor(t, "the query to reach the upstream", func() bool { return asked.Load() == 1 })
		before := time.Now()
		tc.change(c)
		shard := f.flights.shard(key)
		shard.Lock()
		fl := shard.m[string(key)]
		shard.Unlock()
		fl.serveAllStale()
		if waits := f.Stats().Waiting == 1; waits != tc.upstream {
			t.Errorf("%s: the query waits for the upstream: %t", what, waits)
		}
		var a cache.Answer
		c.Peek(key, before.Add(25*time.Second), &a) // stale, and a failure is not too long ago
		if a.Failed != tc.failed {
			t.Errorf("%s: a failure to refresh is recorded: %t", what, a.Failed)
		}
		close(release)
		if r := <-reply; isStale(r, dns.ExtendedErrorCodeStaleAnswer) != tc.stale || len(r.Answer) == 0 {
			t.Errorf("%s: %v", what, r)
		}
	}
}
