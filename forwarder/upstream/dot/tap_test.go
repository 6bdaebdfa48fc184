// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestTap: the tap gets the messages as they are on the wire, with their IDs and addresses,
// also a reply to a query that was abandoned.
func TestTap(t *testing.T) {
	var mu sync.Mutex
	var got []tap.Message
	record := func(m tap.Message) {
		m.Data = bytes.Clone(m.Data)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, m)
	}
	messages := func() []tap.Message { mu.Lock(); defer mu.Unlock(); return got }
	z := servertest.Zone(t)
	late := make(chan struct{})
	var requests []dnstest.Request
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		q := *r
		q.Query = bytes.Clone(q.Query)
		mu.Lock()
		requests = append(requests, q)
		mu.Unlock()
		if bytes.Contains(r.Query, []byte("late")) {
			return dnstest.Hold(late, z).Answer(r)
		}
		return z.Answer(r)
	}), nil)
	cl := clientOf(t, transport.Config{Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, Tap: record})
	before := time.Now()
	servertest.MustAsk(t, cl, "www.example.")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		servertest.Eventually(t, "the query", func() bool { return len(messages()) == 3 })
		cancel()
	}()
	if _, err := servertest.AskContext(ctx, t, cl, "late.example."); err == nil {
		t.Fatal("the query was not abandoned")
	}
	close(late)
	servertest.Eventually(t, "the late reply", func() bool { return len(messages()) == 4 })
	all := messages()
	for i, m := range all {
		r := requests[i/2]
		if m.Proto != tap.TLS || m.Querier != r.Remote || m.Responder != s.Addr() || m.Queried.Before(before) || m.Queried.After(time.Now()) {
			t.Errorf("message %d: %+v", i, m)
		}
		if i%2 == 0 {
			if m.Kind != tap.ForwarderQuery || !m.Replied.IsZero() || !bytes.Equal(m.Data, r.Query) {
				t.Errorf("query %d: %+v, want %x", i, m, r.Query)
			}
		} else if m.Kind != tap.ForwarderResponse || !m.Queried.Equal(all[i-1].Queried) || m.Replied.Before(m.Queried) || !bytes.Equal(m.Data[:2], r.Query[:2]) || m.Data[2]&0x80 == 0 {
			t.Errorf("reply %d: %+v", i, m)
		}
	}
}
