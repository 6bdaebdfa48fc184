// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/shared"
)

// identified is an upstream with an identity.
type identified struct {
	exchangeFunc
	id string
}

func (u identified) Identity() string { return u.id }

// TestNotShared: answers of an upstream without an identity are not shared.
func TestNotShared(t *testing.T) {
	fs := &flights{cfg: Config{Shared: new(shared.Cache)}}
	for _, tc := range []struct {
		up     Exchanger
		shared bool
	}{
		{identified{id: "group"}, true},
		{identified{}, false},
		{exchangeFunc(nil), false},
	} {
		if c, _ := (&flight{fs: fs, upstream: tc.up}).shareable(nil, nil); (c != nil) != tc.shared {
			t.Errorf("%T: shared %t", tc.up, c != nil)
		}
	}
}

// TestInFlightAtChange: the answer to a query that was in flight when the network or the router
// changed is not cached, because it may be of the old one.
func TestInFlightAtChange(t *testing.T) {
	received, proceed := make(chan struct{}), make(chan struct{})
	up := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		received <- struct{}{}
		<-proceed
		return recordsUpstream(true, []string{"www.example.com. 300 IN A 192.0.2.1"}, nil)(ctx, q)
	})
	f, at := startForwarder(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
	for _, change := range []func(){f.NetworkChanged, func() { f.SetRouter(nil) }, func() {}} {
		done := make(chan *dns.Msg)
		go func() { done <- ask(t, "udp", at, question("www.example.com", dns.TypeA)) }()
		select {
		case <-received:
		case <-done:
			t.Fatal("the answer was cached")
		}
		change()
		proceed <- struct{}{}
		if r := <-done; len(r.Answer) != 1 {
			t.Errorf("%v", r)
		}
	}
	if r := ask(t, "udp", at, question("www.example.com", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("from the cache: %v", r)
	}
}
