// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/upstream/transport"
)

// server answers the queries of a Name.
type server struct {
	t       *testing.T
	mu      sync.Mutex
	records []string
	err     error
	took    time.Duration
	queries int
}

func (s *server) ask(ctx context.Context, query []byte) ([]byte, error) {
	s.mu.Lock()
	records, err, took := s.records, s.err, s.took
	s.queries++
	s.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		s.t.Error(err)
	}
	var matching []string
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			s.t.Error(err)
		}
		if rr.Header().Rrtype == m.Question[0].Qtype {
			matching = append(matching, r)
		}
	}
	return reply(s.t, 0, matching...), nil
}

func (s *server) set(err error, records ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.records = err, records
}

// count returns the number of resolutions since the last call.
func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.queries
	s.queries = 0
	return n / 2
}

func newName(s *server) *Name {
	return New(Config{
		Name: "dns.example", Ask: s.ask, Timeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
		Spawn: func(f func()) bool { go f(); return true },
	})
}

// TestName follows a name over some hours, on a false clock.
func TestName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, took: 100 * time.Millisecond}
		n := newName(s)
		look := func(want string, resolutions int) {
			t.Helper()
			addrs, err := n.Lookup(t.Context())
			if got := fmt.Sprint(addrs); got != want || (err != nil) != (want == "[]") {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
			synctest.Wait()
			time.Sleep(time.Second) // a refresh in the background ends
			synctest.Wait()
			if got := s.count(); got != resolutions {
				t.Errorf("%d resolutions, want %d", got, resolutions)
			}
		}
		s.set(nil, "dns.example. 300 IN A 192.0.2.1", "dns.example. 600 IN AAAA 2001:db8::1")
		look("[192.0.2.1 2001:db8::1]", 1)
		look("[192.0.2.1 2001:db8::1]", 0)
		s.set(nil, "dns.example. 10 IN A 192.0.2.2")
		time.Sleep(300 * time.Second)
		look("[192.0.2.1 2001:db8::1]", 1) // refreshed in the background
		look("[192.0.2.2]", 0)
		time.Sleep(minTTL - 5*time.Second)
		look("[192.0.2.2]", 0) // a short TTL counts as a minute
		time.Sleep(5 * time.Second)

		s.set(errors.New("unreachable")) // the last known addresses stay
		look("[192.0.2.2]", 1)
		look("[192.0.2.2]", 0)
		s.set(nil) // without any record
		time.Sleep(maxRetry)
		look("[192.0.2.2]", 1)
		s.set(nil, "dns.example. 1000000 IN A 192.0.2.3")
		time.Sleep(maxRetry)
		look("[192.0.2.2]", 1)
		look("[192.0.2.3]", 0)

		n.Expire(time.Now()) // the server was not reached
		look("[192.0.2.3]", 1)
		n.Expire(time.Now())
		look("[192.0.2.3]", 0) // not that often
		n.NetworkChanged()
		look("[192.0.2.3]", 1)
		time.Sleep(maxTTL)
		n.Refresh(t.Context(), time.Now())
		time.Sleep(time.Second)
		look("[192.0.2.3]", 1)
	})
}

// TestNameFails: without an address the error says why, and the resolution is repeated with
// growing pauses. Waiting ends when the context does.
func TestNameFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, took: time.Second, err: errors.New("unreachable")}
		n := newName(s)
		for i, want := range []int{1, 2, 4, 8, 16, 30, 30} {
			started := time.Now()
			_, err := n.Lookup(t.Context())
			var lookup *transport.LookupError
			if !errors.As(err, &lookup) || lookup.Name != "dns.example" || !errors.Is(err, s.err) {
				t.Fatalf("error %v", err)
			}
			if took := time.Since(started); took != time.Second {
				t.Errorf("attempt %d took %s", i, took)
			}
			for waited := 1; ; waited++ {
				time.Sleep(time.Second)
				if n.Refresh(t.Context(), time.Now()); n.pendingNow() {
					if waited != want {
						t.Errorf("attempt %d was repeated after %d s, want %d s", i, waited, want)
					}
					break
				}
			}
			if i == 6 {
				break
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := n.Lookup(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		s.set(nil, "dns.example. 300 IN A 192.0.2.1")
		time.Sleep(time.Minute)
		if addrs, err := n.Lookup(t.Context()); err != nil || len(addrs) != 1 {
			t.Errorf("%v, %v", addrs, err)
		}
		closed := New(Config{Name: "dns.example", Spawn: func(func()) bool { return false }})
		if _, err := closed.Lookup(t.Context()); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
}

func (n *Name) pendingNow() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pending != nil
}
