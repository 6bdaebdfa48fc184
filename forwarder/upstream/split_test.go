// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/split"
	"sotto/internal/dnstest"
)

func TestByNameOrder(t *testing.T) {
	key := split.Key{7}
	a, b, c := key.Service("a"), key.Service("b"), key.Service("c")
	servers := []candidate{{service: a}, {service: b}, {service: a}, {service: c}, {service: b}}
	firsts := map[int]int{}
	for i := range 3000 {
		domain := key.Domain([]byte(fmt.Sprintf("\x08d%07d\x03org\x00", i)))
		order := byName(nil, servers, domain)
		firsts[order[0]]++
		// The servers of a service are next to each other, in their order.
		for _, pair := range [][2]int{{0, 2}, {1, 4}} {
			if at := slices.Index(order, pair[0]); at == 4 || order[at+1] != pair[1] {
				t.Fatalf("order %v", order)
			}
		}
		strict := byNameStrict(nil, servers, domain)
		if !slices.Equal(strict, order[:len(strict)]) || len(strict) != map[int]int{0: 2, 1: 2, 3: 1}[order[0]] {
			t.Fatalf("order %v, strict %v", order, strict)
		}
		down := slices.Clone(servers)
		down[order[0]].backoffUntil = 9
		if got := byName(nil, down, domain); got[4] != order[0] || !slices.Equal(got[:4], order[1:]) {
			t.Fatalf("order %v, with the first one down %v", order, got)
		}
		if got := byNameStrict(nil, down, domain); len(got) != len(strict) || !slices.Contains(got, order[0]) {
			t.Fatalf("strict %v, with the first one down %v", strict, got)
		}
	}
	if len(firsts) != 3 || firsts[0] < 900 || firsts[1] < 900 || firsts[3] < 900 {
		t.Errorf("first servers %v", firsts)
	}
}

// threeServices starts servers with different names.
func threeServices(t *testing.T) (servers []*dnstest.Server, cfg Config) {
	t.Helper()
	for i := range 3 {
		name := fmt.Sprintf("dns%d.example", i)
		s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
			c.Certificate = servertest.Issue(t, dnstest.CertOptions{Names: []string{name}})
			c.LogQueries = 1000
		})
		servers = append(servers, s)
		cfg.Servers = append(cfg.Servers, Server{Addr: s.Addr(), Name: name})
	}
	cfg.RootCAs = servertest.CA().Pool
	return servers, cfg
}

// TestSplit: no server sees the names of another one's domains (the order without Strict is that of
// TestByNameOrder), and after a failure the others take them over, or the queries fail.
func TestSplit(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) {
			servers, cfg := threeServices(t)
			cfg.Split = &Split{Key: split.Key{3}, Strict: strict}
			g := groupOf(t, cfg)
			ask := func(name string) error {
				_, err := g.Exchange(t.Context(), servertest.Query(name, dnstest.TypeA), time.Now().Add(5*time.Second))
				return err
			}
			const domains = 60
			for i := range domains {
				for _, host := range []string{"www", "mail"} {
					if err := ask(fmt.Sprintf("%s.domain%d.example.", host, i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			seen := map[string]int{} // domain → server
			for n, s := range servers {
				for _, q := range s.Log() {
					_, domain, _ := strings.Cut(q.Name, ".")
					if domain == "" {
						continue // a probe
					}
					// Unless it is strict, another server is asked as well on a busy machine.
					if other, ok := seen[domain]; ok && other != n && strict {
						t.Errorf("servers %d and %d know %s", other, n, domain)
					}
					seen[domain] = n
				}
				if len(s.Log()) < 2*domains/8 {
					t.Errorf("server %d got %d of %d queries", n, len(s.Log()), 2*domains)
				}
			}
			if len(seen) != domains {
				t.Errorf("%d of %d domains were asked for", len(seen), domains)
			}
			if err := servers[0].Close(); err != nil {
				t.Fatal(err)
			}
			for i := range domains {
				domain := fmt.Sprintf("domain%d.example.", i)
				err := ask("ftp." + domain)
				if failed := strict && seen[domain] == 0; (err != nil) != failed {
					t.Errorf("%s, of server %d: %v", domain, seen[domain], err)
				}
				if strict && seen[domain] == 0 {
					break // a failure takes a while
				}
			}
		})
	}
}
