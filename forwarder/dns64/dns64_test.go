// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// zone is an upstream that answers from records, following CNAMEs. A name without records does not
// exist; "name TYPE rcode" and "name TYPE fail" set errors.
type zone struct {
	records []string
	errors  map[string]int // by "name TYPE"; noReply, truncated or malformed

	mu    sync.Mutex
	asked []string
}

const (
	noReply   = -1
	truncated = -2
	malformed = -3
)

const soa = "example. 300 SOA ns.example. admin.example. 1 2 3 4 120"

func (z *zone) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	name, typ := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	key := name + " " + dns.TypeToString[typ]
	z.mu.Lock()
	z.asked = append(z.asked, key)
	z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(&q)
	m.Compress, m.AuthenticatedData = true, true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	if rcode, ok := z.errors[key]; ok {
		switch rcode {
		case noReply:
			return nil, errors.New("no reply")
		case truncated:
			m.Truncated = true
		case malformed:
			msg, err := m.Pack()
			if err == nil {
				msg[7] = 9 // answers
			}
			return msg, err
		default:
			m.Rcode = rcode
			if opt := m.IsEdns0(); opt != nil {
				opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeProhibited})
			}
		}
		return m.Pack()
	}
	opt := q.IsEdns0()
	exists := false
	for next := name; next != ""; {
		name, next = next, ""
		for _, text := range z.records {
			rr := mustRR(text)
			h := rr.Header()
			if h.Name != name {
				continue
			}
			exists = true
			sig, signed := rr.(*dns.RRSIG)
			cname, alias := rr.(*dns.CNAME)
			if h.Rrtype == typ || alias || signed && (sig.TypeCovered == typ || sig.TypeCovered == dns.TypeCNAME) && opt != nil && opt.Do() {
				m.Answer = append(m.Answer, rr)
			}
			if alias && h.Rrtype != typ {
				next = cname.Target
			}
		}
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	if !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == typ }) && !strings.HasPrefix(name, "nosoa.") {
		m.Ns = append(m.Ns, mustRR(soa))
	}
	return m.Pack()
}

func mustRR(text string) dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return rr
}

// newZone returns the names of the tests.
func newZone() *zone {
	sig := func(name, covered string) string {
		return name + " 60 RRSIG " + covered + " 13 2 60 20300101000000 20200101000000 1 example. AAAA"
	}
	return &zone{
		records: []string{
			"v4.example. 3600 A 9.9.9.9", "v4.example. 3600 A 8.8.8.8", sig("v4.example.", "A"), "v4.example. 60 MX 10 v4.example.",
			"short.example. 30 A 9.9.9.9", "nosoa.example. 3600 A 9.9.9.9",
			"both.example. 60 A 9.9.9.9", "both.example. 60 AAAA 2001:db8::9",
			"mapped.example. 60 A 9.9.9.9", "mapped.example. 60 AAAA ::ffff:9.9.9.9",
			"mixed.example. 60 A 9.9.9.9", "mixed.example. 60 AAAA ::ffff:9.9.9.9", "mixed.example. 60 AAAA 2001:db8::9",
			"alias.example. 77 CNAME v4.example.", sig("alias.example.", "CNAME"),
			"alias6.example. 77 CNAME both.example.", "dead.example. 60 CNAME none.example.",
			"private.example. 60 A 192.168.1.1", "mixed4.example. 60 A 192.168.1.1", "mixed4.example. 60 A 9.9.9.9",
			"text.example. 60 TXT x", "gone.example. 60 TXT x", "refused.example. 60 TXT x", "failed.example. 60 TXT x",
			"silent.example. 60 TXT x", "cut.example. 60 TXT x", "bad.example. 60 TXT x", "broken.example. 60 A 9.9.9.9",
			"9.9.9.9.in-addr.arpa. 60 PTR dns9.example.", "8.8.8.8.in-addr.arpa. 60 CNAME 8.sub.8.8.8.in-addr.arpa.", "8.sub.8.8.8.in-addr.arpa. 60 PTR dns8.example.",
		},
		errors: map[string]int{
			"broken.example. AAAA": dns.RcodeServerFailure, "gone.example. A": dns.RcodeNameError, "refused.example. A": dns.RcodeRefused,
			"failed.example. A": dns.RcodeServerFailure, "silent.example. A": noReply, "cut.example. A": truncated, "bad.example. A": malformed,
		},
	}
}

// query returns an upstream query as the forwarder sends it.
func query(t *testing.T, name string, typ uint16, do, cd bool) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.CheckingDisabled = cd
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	q.DO = do
	return wire.AppendQuery(nil, &q)
}

// exchange returns the records of the answer and authority sections, after both libraries have
// accepted the reply.
func exchange(t *testing.T, x *Exchanger, q []byte) (*dns.Msg, string) {
	t.Helper()
	msg, err := x.Exchange(t.Context(), q, time.Now().Add(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if !wire.SameQuestion(q, msg) {
		t.Fatal("the reply has another question")
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ParseReply(msg); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, rr := range append(slices.Clone(m.Answer), m.Ns...) {
		text := strings.ReplaceAll(rr.String(), "\tIN\t", " ")
		if sig, ok := rr.(*dns.RRSIG); ok {
			text = "RRSIG " + dns.TypeToString[sig.TypeCovered]
		}
		texts = append(texts, strings.ReplaceAll(strings.ReplaceAll(text, "\t", " "), ".example.", ""))
	}
	return &m, strings.Join(texts, "|")
}

const negative = "example. 300 SOA ns admin 1 2 3 4 120"

func TestAddresses(t *testing.T) {
	x := New(newZone(), WellKnown)
	for _, tc := range []struct {
		name  string
		want  string
		rcode int
		asked int
	}{
		{"v4.example.", "v4 120 AAAA 64:ff9b::909:909|v4 120 AAAA 64:ff9b::808:808", 0, 2}, // limited by the SOA
		{"V4.Example.", "V4.Example. 120 AAAA 64:ff9b::909:909|V4.Example. 120 AAAA 64:ff9b::808:808", 0, 2},
		{"short.example.", "short 30 AAAA 64:ff9b::909:909", 0, 2},
		{"nosoa.example.", "nosoa 600 AAAA 64:ff9b::909:909", 0, 2},
		{"both.example.", "both 60 AAAA 2001:db8::9", 0, 1},
		{"mapped.example.", "mapped 60 AAAA 64:ff9b::909:909", 0, 2},
		{"mixed.example.", "mixed 60 AAAA 2001:db8::9", 0, 1},
		{"alias.example.", "alias 77 CNAME v4|v4 120 AAAA 64:ff9b::909:909|v4 120 AAAA 64:ff9b::808:808", 0, 2},
		{"alias6.example.", "alias6 77 CNAME both|both 60 AAAA 2001:db8::9", 0, 1},
		{"private.example.", negative, 0, 2},
		{"mixed4.example.", "mixed4 60 AAAA 64:ff9b::909:909", 0, 2},
		{"text.example.", negative, 0, 2},
		{"gone.example.", negative, 0, 2},
		{"none.example.", negative, dns.RcodeNameError, 1},
		{"broken.example.", "broken 60 AAAA 64:ff9b::909:909", 0, 2},
	} {
		z := newZone()
		x.up = z
		m, got := exchange(t, x, query(t, tc.name, dns.TypeAAAA, false, false))
		synthesized := strings.Contains(got, "64:ff9b")
		if got != tc.want || m.Rcode != tc.rcode || len(z.asked) != tc.asked || synthesized && m.AuthenticatedData {
			t.Errorf("%s: %s, %s, AD %t after %v\nwant %s", tc.name, dns.RcodeToString[m.Rcode], got, m.AuthenticatedData, z.asked, tc.want)
		}
	}
	// Other types, and other classes, are left alone.
	z := newZone()
	x.up = z
	if _, got := exchange(t, x, query(t, "v4.example.", dns.TypeMX, false, false)); got != "v4 60 MX 10 v4" || len(z.asked) != 1 {
		t.Errorf("MX: %s after %v", got, z.asked)
	}
	q := query(t, "v4.example.", dns.TypeAAAA, false, false)
	name, _, _ := wire.QuestionOf(q)
	q[wire.HeaderLen+len(name)+3] = 3 // CHAOS
	if _, got := exchange(t, x, q); strings.Contains(got, "64:ff9b") {
		t.Errorf("CHAOS: %s", got)
	}
}

// TestFailures: if it is not known whether a name has an IPv4 address, the answer is not the
// negative one, which would be cached, but the failure with its reason.
func TestFailures(t *testing.T) {
	x := New(newZone(), WellKnown)
	for name, want := range map[string]int{"refused.example.": dns.RcodeRefused, "failed.example.": dns.RcodeServerFailure} {
		m, got := exchange(t, x, query(t, name, dns.TypeAAAA, true, false))
		if m.Rcode != want || got != "" || !strings.Contains(m.String(), "EDE: 18") {
			t.Errorf("%s: %v", name, m)
		}
	}
	if m, got := exchange(t, x, query(t, "cut.example.", dns.TypeAAAA, false, false)); !m.Truncated || got != "" {
		t.Errorf("truncated: %v", m)
	}
	for _, name := range []string{"silent.example.", "bad.example."} {
		if msg, err := x.Exchange(t.Context(), query(t, name, dns.TypeAAAA, false, false), time.Now().Add(5*time.Second)); err == nil {
			t.Errorf("%s: %x", name, msg)
		}
	}
}

// TestSignatures: with DO and CD nothing is translated; with DO alone the signatures of translated
// records are removed, and OPT stays.
func TestSignatures(t *testing.T) {
	x := New(newZone(), WellKnown)
	if _, got := exchange(t, x, query(t, "v4.example.", dns.TypeAAAA, true, true)); got != negative {
		t.Errorf("DO and CD: %s", got)
	}
	m, got := exchange(t, x, query(t, "alias.example.", dns.TypeAAAA, true, false))
	if got != "alias 77 CNAME v4|RRSIG CNAME|v4 120 AAAA 64:ff9b::909:909|v4 120 AAAA 64:ff9b::808:808" || m.AuthenticatedData ||
		m.IsEdns0() == nil || !m.IsEdns0().Do() {
		t.Errorf("DO: %v", m)
	}
	if _, got := exchange(t, x, query(t, "v4.example.", dns.TypeAAAA, false, true)); !strings.Contains(got, "64:ff9b") {
		t.Errorf("CD without DO: %s", got)
	}
}

func TestReverse(t *testing.T) {
	x := New(newZone(), WellKnown)
	for addr, want := range map[string]string{
		"64:ff9b::909:909": "60 CNAME 9.9.9.9.in-addr.arpa.|9.9.9.9.in-addr.arpa. 60 PTR dns9",
		"64:ff9b::808:808": "60 CNAME 8.8.8.8.in-addr.arpa.|8.8.8.8.in-addr.arpa. 60 CNAME 8.sub.8.8.8.in-addr.arpa.|8.sub.8.8.8.in-addr.arpa. 60 PTR dns8",
		"64:ff9b::101:101": "300 CNAME 1.1.1.1.in-addr.arpa.|" + negative,
		"2001:db8::1":      negative,
	} {
		name, err := dns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		_, got := exchange(t, x, query(t, name, dns.TypePTR, false, false))
		if strings.TrimPrefix(got, name+" ") != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

// TestDiscovery: the prefix is found through the upstream, once for all queries, and again after a
// change of the network; without one nothing is translated.
func TestDiscovery(t *testing.T) {
	z := newZone()
	z.records = append(z.records, "ipv4only.arpa. 3600 AAAA 2001:db8:122:344:c0:0:aa00::", "ipv4only.arpa. 3600 AAAA 2001:db8:122:344:c0:0:ab00::")
	x := New(z, netip.Prefix{})
	q := query(t, "short.example.", dns.TypeAAAA, false, false)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			msg, err := x.Exchange(t.Context(), q, time.Now().Add(5*time.Second))
			var m dns.Msg
			if err != nil || m.Unpack(msg) != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.AAAA).AAAA.String() != "2001:db8:122:344:9:909:900:0" {
				t.Errorf("%v, %v", err, m.Answer)
			}
		})
	}
	wg.Wait()
	count := func() (n int) {
		z.mu.Lock()
		defer z.mu.Unlock()
		for _, key := range z.asked {
			if key == "ipv4only.arpa. AAAA" {
				n++
			}
		}
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("%d queries for the prefix", n)
	}
	v4, ok, err := x.Extract(t.Context(), netip.MustParseAddr("2001:db8:122:344:9:909:900:0"), time.Now().Add(5*time.Second))
	if err != nil || !ok || v4.String() != "9.9.9.9" {
		t.Errorf("extract: %v, %t, %v", v4, ok, err)
	}
	z.records = z.records[:len(z.records)-2]
	x.NetworkChanged()
	if _, got := exchange(t, x, q); got != negative || count() != 2 {
		t.Errorf("after the network changed: %s, %d queries", got, count())
	}
	if _, got := exchange(t, x, q); got != negative || count() != 2 {
		t.Errorf("that there is no prefix is not remembered: %s, %d queries", got, count())
	}
}

// heldLookups is a zone that answers queries for the prefix when the test lets it.
type heldLookups struct {
	*zone
	asked   chan chan string // an item per query, which takes the prefix's record
	stopped <-chan struct{}
}

func (h *heldLookups) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	if name, _, _ := wire.QuestionOf(query); !bytes.Equal(name, ipv4Only) {
		return h.zone.Exchange(ctx, query, until)
	}
	answer := make(chan string, 1)
	select {
	case h.asked <- answer:
	case <-h.stopped:
		return nil, context.Canceled
	}
	select {
	case record := <-answer:
		return (&zone{records: []string{record}}).Exchange(ctx, query, until)
	case <-h.stopped:
		return nil, context.Canceled
	}
}

// TestNetworkChangesDuringLookup: a query that waits for the prefix gets that of the network to which
// the machine changed meanwhile, also if the look-up in the previous one is never answered.
func TestNetworkChangesDuringLookup(t *testing.T) {
	q := query(t, "short.example.", dns.TypeAAAA, false, false)
	for _, late := range []bool{false, true} {
		ctx, stop := context.WithCancel(t.Context())
		h := &heldLookups{zone: newZone(), asked: make(chan chan string), stopped: ctx.Done()}
		x := New(h, netip.Prefix{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			msg, err := x.Exchange(ctx, q, time.Now().Add(time.Minute))
			var m dns.Msg
			if err != nil || m.Unpack(msg) != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.AAAA).AAAA.String() != "2001:db8:2::909:909" {
				t.Errorf("late answer %t: %v, %v", late, err, m.Answer)
			}
		}()
		first := <-h.asked
		x.NetworkChanged()
		if late {
			first <- "ipv4only.arpa. 3600 AAAA 2001:db8:1::c000:aa"
		}
		select {
		case second := <-h.asked:
			second <- "ipv4only.arpa. 3600 AAAA 2001:db8:2::c000:aa"
			<-done
		case <-done:
		}
		stop()
	}
}

// TestNotFound: while the prefix is not known, queries that need it fail; others do not. That there
// is none is used until a later look-up succeeds.
func TestNotFound(t *testing.T) {
	reverse := "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
	for _, failure := range []int{noReply, truncated, malformed, dns.RcodeServerFailure, dns.RcodeRefused} {
		z := newZone()
		z.errors["ipv4only.arpa. AAAA"] = failure
		x := New(z, netip.Prefix{})
		v6 := netip.MustParseAddr("2001:db8::1")
		until := time.Now().Add(5 * time.Second)
		fails := func() bool {
			_, err4 := x.Exchange(t.Context(), query(t, "v4.example.", dns.TypeAAAA, false, false), until)
			_, errPTR := x.Exchange(t.Context(), query(t, reverse, dns.TypePTR, false, false), until)
			_, _, errExtract := x.Extract(t.Context(), v6, until)
			if (err4 == nil) != (errPTR == nil) || (err4 == nil) != (errExtract == nil) {
				t.Errorf("%d: %v, %v, %v", failure, err4, errPTR, errExtract)
			}
			return errors.Is(err4, errNotFound)
		}
		if !fails() {
			t.Errorf("%d: no error", failure)
		}
		if _, got := exchange(t, x, query(t, "both.example.", dns.TypeAAAA, false, false)); got != "both 60 AAAA 2001:db8::9" {
			t.Errorf("%d: a name with an IPv6 address: %s", failure, got)
		}
		delete(z.errors, "ipv4only.arpa. AAAA")
		x.NetworkChanged()
		if fails() {
			t.Errorf("%d: an error after a look-up that succeeded", failure)
		}
		z.errors["ipv4only.arpa. AAAA"] = failure
		x.finder.mu.Lock()
		x.finder.until = time.Time{} // it has expired
		x.finder.mu.Unlock()
		if fails() {
			t.Errorf("%d: that there is no prefix is forgotten", failure)
		}
	}
}

// FuzzSynthesize: no answer of an upstream makes the translation fail or write a malformed message.
func FuzzSynthesize(f *testing.F) {
	z := newZone()
	q := []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05alias\x07example\x00\x00\x1c\x00\x01")
	seed, err := z.Exchange(f.Context(), withType(q, wire.TypeA), time.Time{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, a []byte) {
		if _, err := wire.ParseReply(append([]byte(nil), a...)); err != nil || len(a) < wire.HeaderLen {
			return // the group passes on only what it could parse, unless nothing else is there
		}
		for _, transform := range []func() ([]byte, bool){
			func() ([]byte, bool) { return synthesize(WellKnown, q, a, 60) },
			func() ([]byte, bool) { return withoutExcluded(q, a) },
			func() ([]byte, bool) { return reverse(q, a) },
			func() ([]byte, bool) { return withoutRecords(q, a), true },
		} {
			if out, ok := transform(); ok && len(out) < wire.MaxMessage {
				if _, err := wire.ParseReply(out); err != nil {
					t.Errorf("%v: %x", err, out)
				}
			}
		}
		judge(a)
		negativeTTL(a)
	})
}
