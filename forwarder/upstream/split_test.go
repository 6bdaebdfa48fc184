// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/split"
	"sotto/internal/dnstest"
)

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
