// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
	"sotto/internal/ednstest"
)

// heldUpstream never answers names that begin with "held", as if their domain's servers
// were down. It answers all others immediately.
func heldUpstream(t *testing.T) Exchanger {
	good := newZoneUpstream(t)
	return exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		if bytes.HasPrefix(q[wire.HeaderLen+1:], []byte("held")) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return good.answer(ctx, q)
	})
}

// flooder sends queries from many ports until it is closed. It counts the replies, and
// the refusals because of its share.
type flooder struct {
	conns              []net.Conn
	sent               atomic.Int64
	replies, overShare atomic.Int64
	wg                 sync.WaitGroup
}

// newFlooder opens one socket per port.
func newFlooder(t *testing.T, from string, at netip.AddrPort, ports int) *flooder {
	t.Helper()
	f := &flooder{}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	for range ports {
		c, err := d.Dial("udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		f.conns = append(f.conns, c)
		f.wg.Go(func() { f.read(c) })
	}
	t.Cleanup(f.close)
	return f
}

func (f *flooder) read(c net.Conn) {
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		f.replies.Add(1)
		if bytes.Contains(b[:n], []byte("from this client")) {
			f.overShare.Add(1)
		}
	}
}

// ask sends one query from each port; name makes each from a different number.
func (f *flooder) ask(t *testing.T, name func(n int64) string) {
	t.Helper()
	for _, c := range f.conns {
		m := withEDNS(name(f.sent.Add(1)), dns.TypeA)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(b) // dropped if the buffer is full
	}
}

func (f *flooder) close() {
	for _, c := range f.conns {
		c.Close()
	}
	f.wg.Wait()
}

func heldName(n int64) string { return fmt.Sprintf("held%d.example", n) }

// workloads maps local addresses to the origins of two workloads.
var workloads = map[netip.Addr]Origin{
	netip.MustParseAddr("127.9.0.7"): {Addr: netip.MustParseAddrPort("8.8.8.8:53"), Workload: "/greedy"},
	netip.MustParseAddr("127.9.0.8"): {Addr: netip.MustParseAddrPort("8.8.8.8:53"), Workload: "/modest"},
}

// TestGreedyFlood: a client that floods from a thousand ports with queries that no upstream
// answers gets its share and is then refused. Others are still answered, from the upstream and
// from the cache. Sources are distinguished by workload, or by address where there is none.
func TestGreedyFlood(t *testing.T) {
	for _, tc := range []struct {
		what           string
		origins        bool
		greedy, modest netip.Addr // where they send their queries
		from           [2]string
		name           func(int64) string
	}{
		{"workloads behind one address", true, netip.MustParseAddr("127.9.0.7"), netip.MustParseAddr("127.9.0.8"), [2]string{"127.0.0.1", "127.0.0.1"}, heldName},
		{"addresses", false, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1"), [2]string{"127.0.0.2", "127.0.0.3"}, heldName},
		{"one name", false, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1"), [2]string{"127.0.0.2", "127.0.0.3"}, func(int64) string { return heldName(0) }},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var log syncBuffer
			cfg := Config{Upstream: heldUpstream(t), Cache: newCache(t), MaxMisses: 256, MaxWaiters: 512, Timeout: time.Minute,
				Log: slog.New(slog.NewTextHandler(&log, nil))}
			if tc.origins {
				cfg.Origins = func(a netip.Addr) (Origin, bool) { o, ok := workloads[a]; return o, ok }
			}
			f, at := startForwarder(t, cfg, "0.0.0.0:0")
			victim := func(name string) *dns.Msg {
				t.Helper()
				d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(tc.from[1])}, Timeout: 5 * time.Second}
				c := dns.Client{Dialer: &d, Timeout: 5 * time.Second}
				for range 5 { // UDP may lose packets under load
					r, _, err := c.Exchange(withEDNS(name, dns.TypeA), netip.AddrPortFrom(tc.modest, at.Port()).String())
					if err == nil {
						return r
					}
				}
				t.Fatalf("%s: no reply", name)
				return nil
			}
			victim("cached.example")
			fl := newFlooder(t, tc.from[0], netip.AddrPortFrom(tc.greedy, at.Port()), 1000)
			waitFor(t, "a refusal", func() bool { fl.ask(t, tc.name); return fl.overShare.Load() > 0 })
			for i := range 20 {
				fl.ask(t, tc.name)
				if r := victim(fmt.Sprintf("new%d.example", i)); len(r.Answer) != 1 {
					t.Errorf("while another floods: %v", r)
				}
				if r := victim("cached.example"); len(r.Answer) != 1 {
					t.Errorf("what is cached: %v", r)
				}
			}
			st := f.Stats()
			if st.OverShare == 0 || st.Overloaded != 0 || st.Misses > 256/2+1 || st.Waiting > 512/2+1 || st.Sources > 2 {
				t.Errorf("%+v", st)
			}
			if s := log.String(); !strings.Contains(s, "query refused: over capacity") || strings.Count(s, "refused") > 2 {
				t.Errorf("the log is %q", s)
			}
		})
	}
}

// TestSpoofed: queries from more addresses than the limits allow cannot be distinguished
// from as many honest clients. The limits hold, cached answers are served, and afterwards
// everything works again.
func TestSpoofed(t *testing.T) {
	cfg := Config{Upstream: heldUpstream(t), Cache: newCache(t), MaxMisses: 256, MaxWaiters: 512, Timeout: time.Second}
	f, at := startForwarder(t, cfg, "127.0.0.1:0")
	if r := ask(t, "udp", at, withEDNS("cached.example", dns.TypeA)); len(r.Answer) != 1 {
		t.Fatalf("%v", r)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var sent int64
	full := func() bool {
		for range 50 {
			sent++
			c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 1, byte(sent>>8), byte(sent))}}).Dial("udp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			b, err := withEDNS(heldName(sent), dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write(b)
			c.Close() // it does not read the reply
		}
		return f.Stats().Overloaded > 0
	}
	waitFor(t, "the limit to be reached", full)
	for range 40 {
		full()
		if r := ask(t, "udp", at, withEDNS("cached.example", dns.TypeA)); len(r.Answer) != 1 {
			t.Errorf("what is cached: %v", r)
		}
		if st := f.Stats(); st.Misses > 256+2 || st.Sources > 256+2 { // includes queries that are about to be refused
			t.Fatalf("%+v", st)
		}
	}
	waitFor(t, "the flood to be over", func() bool { return f.Stats().Misses == 0 })
	if r := ask(t, "udp", at, withEDNS("new.example", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("afterwards: %v", r)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 8<<20 {
		t.Errorf("%d KiB still in use after %d queries", n>>10, sent)
	}
}

// TestGreedyRelays: one workload gets no more than its share of relayed queries either,
// and zone transfers are counted separately.
func TestGreedyRelays(t *testing.T) {
	fs := newFlights(t.Context(), Config{MaxWaiters: 1000, MaxMisses: 1, MaxRelays: 64,
		Timeout: time.Minute, Nameserver: stuckNameserver{}})
	defer fs.close()
	for typ, half := range map[uint16]int{dns.TypeA: 32, dns.TypeAXFR: 16} { // half of 64, and the minimum of 16
		n := 0
		for n < 100 && submitRelay(t, fs, "/greedy", typ) == nil {
			n++
		}
		if n != half {
			t.Errorf("%s: one workload holds %d", dns.TypeToString[typ], n)
		}
	}
	if err := submitRelay(t, fs, "/modest", dns.TypeA); err != nil {
		t.Errorf("another workload: %v", err)
	}
	fs.cancel()
	waitFor(t, "everything to be released", func() bool {
		return fs.waiting.InUse()+fs.relays.InUse()+fs.transfers.InUse() == 0
	})
}

// submitRelay submits a query of a workload to its original destination.
func submitRelay(t *testing.T, fs *flights, workload string, typ uint16) error {
	t.Helper()
	q, err := wire.ParseQuery(ednstest.Query("a.example", typ, 0, nil))
	if err != nil {
		t.Fatal(err)
	}
	r := &request{q: q, origin: Origin{Workload: workload}, route: Route{Action: Plain}, tcp: true, start: time.Now()}
	return fs.submit(new(pendingQuery).init(nil, r, discard{}))
}

// TestRelayLimit: relayed queries over the limit are refused, whatever their workload.
// Zone transfers have their own limit, so they leave room for queries, and capacity that
// was released is used again.
func TestRelayLimit(t *testing.T) {
	answer := make(chan struct{}, 20)
	fs := newFlights(t.Context(), Config{MaxWaiters: 1000, MaxMisses: 1, MaxRelays: 8,
		Timeout: time.Minute, Nameserver: heldNameserver(answer)})
	defer fs.close()
	for typ, limit := range map[uint16]int{dns.TypeAXFR: 2, dns.TypeA: 8} {
		for i := range limit {
			if err := submitRelay(t, fs, fmt.Sprintf("/w%d", i), typ); err != nil {
				t.Errorf("%s %d: %v", dns.TypeToString[typ], i, err)
			}
		}
		if err := submitRelay(t, fs, "/other", typ); !errors.Is(err, admission.ErrOverloaded) {
			t.Errorf("%s over the limit: %v", dns.TypeToString[typ], err)
		}
	}
	for range 10 {
		answer <- struct{}{}
	}
	waitFor(t, "everything to be released", func() bool {
		return fs.waiting.InUse()+fs.relays.InUse()+fs.transfers.InUse() == 0
	})
	for _, typ := range []uint16{dns.TypeA, dns.TypeAXFR} {
		if err := submitRelay(t, fs, "/other", typ); err != nil {
			t.Errorf("%s afterwards: %v", dns.TypeToString[typ], err)
		}
		answer <- struct{}{}
	}
}

// heldNameserver fails each query once it receives from the channel.
type heldNameserver chan struct{}

func (n heldNameserver) Exchange(context.Context, netip.AddrPort, uint64, []byte, bool, time.Time) ([]byte, error) {
	<-n
	return nil, errors.New("held")
}

func (n heldNameserver) Transfer(context.Context, netip.AddrPort, []byte, time.Time, func([]byte) error) error {
	<-n
	return errors.New("held")
}

// stuckNameserver never answers.
type stuckNameserver struct{}

func (stuckNameserver) Exchange(ctx context.Context, _ netip.AddrPort, _ uint64, _ []byte, _ bool, _ time.Time) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (stuckNameserver) Transfer(ctx context.Context, _ netip.AddrPort, _ []byte, _ time.Time, _ func([]byte) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// discard drops replies.
type discard struct{}

func (discard) send(*pendingQuery, []byte) {}
func (discard) sendPart([]byte) bool       { return true }
func (discard) abort()                     {}

// syncBuffer is a bytes.Buffer that is safe for concurrent use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
