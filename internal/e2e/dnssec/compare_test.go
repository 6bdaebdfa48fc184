// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
	"sotto/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

// full enables the comparison, which needs root in a network namespace of its own, and a minute.
const full = "SOTTO_DNSSEC_COMPARE"

// verdict is what a client sees of a validation.
type verdict struct {
	rcode string
	ad    bool
	ede   []uint16
}

func (v verdict) String() string {
	s := v.rcode
	if v.ad {
		s += " ad"
	}
	if len(v.ede) > 0 {
		s += fmt.Sprint(" ", v.ede)
	}
	return s
}

func ask(addr, name, typ string) (verdict, *dns.Msg) {
	code, ok := dns.StringToType[typ]
	if !ok {
		_, _ = fmt.Sscanf(typ, "TYPE%d", &code)
	}
	m := new(dns.Msg)
	m.SetQuestion(name, code)
	m.SetEdns0(4096, true)
	c := dns.Client{Net: "tcp", Timeout: 20 * time.Second}
	r, _, err := c.Exchange(m, addr+":53")
	if err != nil {
		return verdict{rcode: err.Error()}, nil
	}
	v := verdict{rcode: dns.RcodeToString[r.Rcode], ad: r.AuthenticatedData}
	if o := r.IsEdns0(); o != nil {
		for _, option := range o.Option {
			if e, ok := option.(*dns.EDNS0_EDE); ok {
				v.ede = append(v.ede, e.InfoCode)
			}
		}
	}
	return v, r
}

// question is one case, and what each validator says.
type question struct {
	name, typ            string
	sotto, unbound, bind verdict
}

func (q question) String() string {
	return fmt.Sprintf("%s %s: Sotto %v, unbound %v, BIND %v", q.name, q.typ, q.sotto, q.unbound, q.bind)
}

// TestCompare: Sotto, unbound and BIND agree on the rcode and the AD bit of every question.
func TestCompare(t *testing.T) {
	if os.Getenv(full) == "" {
		t.Skipf("set %s=1, as scripts/dnssec-test.sh does", full)
	}
	dir := t.TempDir()
	zones := build(t, dir, 3, world())
	hints, anchor := serveZones(t, dir, zones)
	server, ca := resolvers(t, dir, hints, anchor)
	startSotto(t, dir, addrSotto, fmt.Sprintf("upstream = [%q]\nca-file = %q\ndnssec = \"validate\"\ndnssec-sha1 = true\ntrust-anchor-file = %q\n", server, ca, anchor))
	var all []*question
	for _, z := range zones {
		for _, text := range questions {
			name, typ, _ := strings.Cut(text, " ")
			if name == "@" {
				name = z.name
			} else {
				name += "." + strings.TrimPrefix(z.name, ".")
			}
			all = append(all, &question{name: name, typ: typ})
		}
	}
	askAll(all)
	report(t, all)
}

// askAll asks all validators every question, a few at a time.
func askAll(all []*question) {
	var wg sync.WaitGroup
	next := make(chan *question)
	for range 4 {
		wg.Go(func() {
			for q := range next {
				q.sotto, _ = ask(addrSotto, q.name, q.typ)
				q.unbound, _ = ask(addrUnbound, q.name, q.typ)
				q.bind, _ = ask(addrNamed, q.name, q.typ)
			}
		})
	}
	for _, q := range all {
		next <- q
	}
	close(next)
	wg.Wait()
}

func same(a, b verdict) bool { return a.rcode == b.rcode && a.ad == b.ad }

func report(t *testing.T, all []*question) {
	t.Helper()
	agree, refused, edes, sameEDE := 0, 0, 0, 0
	counts := map[string]int{}
	for _, q := range all {
		counts[verdict{rcode: q.sotto.rcode, ad: q.sotto.ad}.String()]++
		u, b := same(q.sotto, q.unbound), same(q.sotto, q.bind)
		switch {
		case u && b:
			agree++
		case u: // BIND accepts a wrong signature of the SOA, and remembers failures longer
			t.Logf("not as BIND: %v", q)
		case strings.HasSuffix(q.name, "iter600.test.") && slices.Equal(q.sotto.ede, []uint16{wire.EDEUnsupportedIterations}):
			refused++ // they count as unsigned elsewhere
		default:
			t.Errorf("not as unbound: %v", q)
		}
		if len(q.sotto.ede) > 0 && len(q.unbound.ede) > 0 {
			edes++
			if slices.Contains(q.unbound.ede, q.sotto.ede[0]) {
				sameEDE++
			}
		}
	}
	t.Logf("%d questions: all three agree on %d, Sotto alone refuses %d for their hash iterations; EDE of unbound on %d, the same on %d; %v", len(all), agree, refused, edes, sameEDE, counts)
}
