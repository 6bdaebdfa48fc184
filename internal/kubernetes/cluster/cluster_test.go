// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestReverseZones(t *testing.T) {
	for p, want := range map[string]string{
		"10.0.0.0/8":    "10.in-addr.arpa",
		"10.96.0.0/15":  "96.10.in-addr.arpa 97.10.in-addr.arpa",
		"10.244.1.0/24": "1.244.10.in-addr.arpa",
		"10.0.0.4/31":   "4.0.0.10.in-addr.arpa 5.0.0.10.in-addr.arpa",
		"192.0.2.1/32":  "1.2.0.192.in-addr.arpa",
		"fd00::/7":      "c.f.ip6.arpa d.f.ip6.arpa",
		"0.0.0.0/0":     "in-addr.arpa",
	} {
		if got := strings.Join(ReverseZones(netip.MustParsePrefix(p)), " "); got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
}

// TestReverseZonesContain: the reverse name of an address is in the zones if and only if the
// address is in the network, by another implementation of reverse names.
func TestReverseZonesContain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		b := make([]byte, []int{4, 16}[r.IntN(2)])
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		addr, _ := netip.AddrFromSlice(b)
		p, _ := addr.Prefix(r.IntN(len(b)*8 + 1))
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		other, _ := netip.AddrFromSlice(b)
		zones := ReverseZones(p)
		for _, a := range []netip.Addr{addr, other} {
			name, err := dns.ReverseAddr(a.String())
			if err != nil {
				t.Fatal(err)
			}
			in := slices.ContainsFunc(zones, func(z string) bool { return dns.IsSubDomain(dns.Fqdn(z), name) })
			if in != p.Contains(a) {
				t.Fatalf("%s in %s: %v by %q", a, p, in, zones)
			}
		}
	}
}

func TestAround(t *testing.T) {
	for a, want := range map[string]string{
		"10.96.0.10":       "10.96.0.0/12", // kubeadm
		"10.96.0.1":        "10.96.0.0/12",
		"10.43.0.10":       "10.43.0.0/16", // k3s
		"172.20.0.10":      "172.20.0.0/14",
		"10.0.37.10":       "10.0.37.0/24",
		"fd00:10:96::a":    "fd00:10:96::/108",
		"fd00::12:34":      "fd00::12:0/111",
		"169.254.20.10":    "",
		"127.0.0.1":        "",
		"::ffff:10.43.0.1": "10.43.0.0/16",
	} {
		got, ok := Around(netip.MustParseAddr(a))
		if ok != (want != "") || ok && (got.String() != want || !got.Contains(netip.MustParseAddr(a).Unmap()) || got != got.Masked()) {
			t.Errorf("%s: %s %v, want %s", a, got, ok, want)
		}
	}
}

// decide returns what happens to a query under the built-in rules: "plain", "nxdomain" or "".
func decide(t *testing.T, c Cluster, e Elsewhere, name, nameserver string) string {
	t.Helper()
	in := c.InCluster()
	in.Use = "plain"
	list := []rules.Rule{in}
	if out, ok := c.OutOfCluster(e); ok {
		out.Use = "nxdomain"
		list = append(list, out)
	}
	set, err := rules.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	q := rules.Query{Type: wire.TypeA, RD: true, Nameserver: netip.AddrPortFrom(netip.MustParseAddr(nameserver), 53)}
	if q.Name, err = wire.AppendParsed(nil, name); err != nil {
		t.Fatal(err)
	}
	if i := set.Match(q); i >= 0 {
		return set.Use(i)
	}
	return ""
}

func TestRules(t *testing.T) {
	known := Cluster{Domains: []string{"cluster.local"}, DNS: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("169.254.20.10")},
		Services: prefixes("10.96.0.0/12"), Pods: prefixes("10.244.0.0/16")}
	unknown := Cluster{Domains: known.Domains, DNS: known.DNS}
	around := Cluster{Domains: known.Domains, DNS: known.DNS, Around: prefixes("10.96.0.0/12")}
	public := Cluster{Domains: []string{"k8s.example.com"}, DNS: known.DNS, Services: prefixes("203.0.113.0/24"), Pods: prefixes("2001:db8::/64")}
	for _, c := range []struct {
		cluster          Cluster
		elsewhere        Elsewhere
		name, nameserver string
		want             string
	}{
		{known, Auto, "web.one.svc.cluster.local", "10.96.0.10", "plain"},
		{known, Auto, "Web.One.SVC.Cluster.Local", "169.254.20.10", "plain"},
		{known, Auto, "web.one.svc.cluster.local", "10.99.1.2", "plain"},  // the NodeLocal cache's service
		{known, Auto, "web.one.svc.cluster.local", "10.244.0.2", "plain"}, // a pod of the resolver
		{known, Auto, "secret.cluster.local", "8.8.8.8", "nxdomain"},      // neither in plain nor upstream
		{known, Auto, "secret.cluster.local", "10.1.2.3", "nxdomain"},     // another private network
		{known, Forward, "secret.cluster.local", "8.8.8.8", ""},
		{known, Auto, "www.example.com", "10.96.0.10", ""},
		{known, Auto, "notcluster.local", "10.96.0.10", ""},
		{known, Auto, "1.0.96.10.in-addr.arpa", "10.96.0.10", "plain"},
		{known, Auto, "1.0.111.10.in-addr.arpa", "10.96.0.10", "plain"},
		{known, Auto, "1.0.112.10.in-addr.arpa", "10.96.0.10", ""},
		{known, Auto, "5.0.244.10.in-addr.arpa", "10.96.0.10", "plain"},
		{known, Auto, "5.0.244.10.in-addr.arpa", "8.8.8.8", "nxdomain"},
		{known, Auto, "8.8.8.8.in-addr.arpa", "10.96.0.10", ""},

		{unknown, Auto, "web.one.svc.cluster.local", "10.99.1.2", "nxdomain"},
		{around, Auto, "web.one.svc.cluster.local", "10.99.1.2", "plain"},
		{around, Auto, "web.one.svc.cluster.local", "10.1.2.3", "nxdomain"},
		{around, Auto, "1.2.99.10.in-addr.arpa", "8.8.8.8", ""},
		{unknown, Auto, "5.0.244.10.in-addr.arpa", "10.96.0.10", "plain"},
		{unknown, Auto, "5.0.244.10.in-addr.arpa", "8.8.8.8", ""}, // it may be any network's
		{unknown, Auto, "8.8.8.8.in-addr.arpa", "10.96.0.10", ""},

		{public, Auto, "web.one.svc.k8s.example.com", "10.96.0.10", "plain"},
		{public, Auto, "web.one.svc.k8s.example.com", "8.8.8.8", ""}, // it may exist there
		{public, NXDomain, "web.one.svc.k8s.example.com", "8.8.8.8", "nxdomain"},
		{public, Auto, "1.113.0.203.in-addr.arpa", "203.0.113.10", "plain"},
		{public, Auto, "1.113.0.203.in-addr.arpa", "8.8.8.8", ""},
	} {
		if got := decide(t, c.cluster, c.elsewhere, c.name, c.nameserver); got != c.want {
			t.Errorf("%s asked of %s (%v, %s): %q, want %q", c.name, c.nameserver, c.cluster.Domains, c.elsewhere, got, c.want)
		}
	}
	if (&Cluster{Domains: known.Domains}).Known() || !known.Known() {
		t.Error("Known is wrong")
	}
}
