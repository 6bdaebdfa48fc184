// SPDX-License-Identifier: Apache-2.0

package split

import (
	"fmt"
	"strings"
	"testing"

	"sotto/forwarder/wire"
)

func parse(t *testing.T, text string) []byte {
	t.Helper()
	name, err := wire.AppendParsed(nil, text)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDomain(t *testing.T) {
	k := Key{1}
	for text, want := range map[string]string{
		"www.example.org":            "example.org.",
		"a.b.c.WWW.Example.co.uk":    "Example.co.uk.",
		"example.org":                "example.org.",
		"org":                        "org.",
		"co.uk":                      "co.uk.",
		".":                          ".",
		"x.user.github.io":           "user.github.io.",
		"www.unknowntld":             "www.unknowntld.",
		`a\.b.c.example.org`:         "example.org.",
		"a.city.kawasaki.jp":         "city.kawasaki.jp.", // an exception of the list
		"1.2.0.192.in-addr.arpa":     "2.0.192.in-addr.arpa.",
		"2.0.192.in-addr.arpa":       "2.0.192.in-addr.arpa.",
		"192.In-Addr.ARPA":           "192.In-Addr.ARPA.",
		"5.sub.2.0.192.in-addr.arpa": "2.0.192.in-addr.arpa.",
		"1." + strings.Repeat("0.", 19) + "2.2.1.0.8.b.d.0.1.0.0.2.ip6.arpa": "2.2.1.0.8.b.d.0.1.0.0.2.ip6.arpa.",
	} {
		name := parse(t, text)
		if got := wire.Name(Domain(name)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if k.Domain(name) != k.Domain(parse(t, strings.ToUpper(want))) {
			t.Errorf("%s and %s have different hashes", text, want)
		}
	}
}

// TestScore: each service gets its share, a new service takes its share from all and moves nothing
// else, and another key moves most domains.
func TestScore(t *testing.T) {
	k, other := Key{1}, Key{2}
	var services, moved []uint64
	for i := range 5 {
		name := fmt.Sprintf("dns%d.example", i)
		services, moved = append(services, k.Service(name)), append(moved, other.Service(name))
	}
	best := func(domain uint64, services []uint64) (n int) {
		for i := range services {
			if Score(domain, services[i]) > Score(domain, services[n]) {
				n = i
			}
		}
		return n
	}
	const domains = 8_000
	var four, five [5]int
	rekeyed := 0
	for i := range domains {
		name := parse(t, fmt.Sprintf("www.domain%d.com", i))
		d := k.Domain(name)
		a, b := best(d, services[:4]), best(d, services)
		four[a]++
		five[b]++
		if a != b && b != 4 {
			t.Errorf("%s moved from %d to %d", wire.Name(name), a, b)
		}
		if best(other.Domain(name), moved) == b {
			rekeyed++
		}
	}
	for i, n := range four[:4] {
		if n < domains/4*17/20 || n > domains/4*23/20 {
			t.Errorf("service %d has %d of %d domains", i, n, domains)
		}
	}
	for i, n := range five {
		if n < domains/5*17/20 || n > domains/5*23/20 {
			t.Errorf("of five, service %d has %d of %d domains", i, n, domains)
		}
	}
	if rekeyed > domains/4 {
		t.Errorf("with another key %d of %d domains stay", rekeyed, domains)
	}
}

func FuzzDomain(f *testing.F) {
	f.Add([]byte("\x03www\x07example\x03org\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		name, _, _ := wire.QuestionOf(msg)
		if d := Domain(name); len(name) > 0 && (len(d) == 0 || len(d) > len(name)) {
			t.Errorf("%x: %x", name, d)
		}
	})
}
