// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
	"strings"

	"sotto/forwarder/localnames"
	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
)

// Cluster is what is known about a cluster.
type Cluster struct {
	Domains  []string     // cluster.local
	DNS      []netip.Addr // nameservers of its pods
	Services []netip.Prefix
	Pods     []netip.Prefix

	// Around has networks that may be those of services, where Services is not known.
	Around []netip.Prefix
}

// largest is the number of bits that Kubernetes allows for addresses of services in a network.
const largest = 20

// Around returns the largest network that may be the one of the service with address a, one of
// the first in it: the API server's has the first address, and that of the resolver is the tenth
// by convention. It reports false for addresses that services do not have.
func Around(a netip.Addr) (netip.Prefix, bool) {
	a = a.Unmap()
	if !a.IsValid() || a.IsLinkLocalUnicast() || a.IsLoopback() {
		return netip.Prefix{}, false
	}
	start := a.AsSlice()
	start[len(start)-1] = 0
	bits := a.BitLen()
	for bits > a.BitLen()-largest && start[(bits-1)/8]>>(7-(bits-1)%8)&1 == 0 {
		bits--
	}
	first, _ := netip.AddrFromSlice(start)
	return netip.PrefixFrom(first, bits), true
}

// Known reports whether there is a cluster with names and a resolver.
func (c *Cluster) Known() bool { return len(c.Domains) > 0 && len(c.DNS) > 0 }

// Elsewhere is what happens to the names of the cluster if a nameserver outside of it is asked.
type Elsewhere string

const (
	// Auto is NXDomain for names that no public server has, and Forward for others.
	Auto Elsewhere = "auto"
	// NXDomain answers that the names do not exist.
	NXDomain Elsewhere = "nxdomain"
	// Forward forwards them over TLS, as any other name.
	Forward Elsewhere = "forward"
)

// Names of the built-in rules.
const (
	RuleOptOut    = "pods that opted out"
	RuleNames     = "cluster names"
	RuleElsewhere = "cluster names asked elsewhere"
)

// InCluster returns the conditions for names of the cluster that are asked of its resolver, or of
// any other address in it: a NodeLocal cache asks a service of its own.
func (c *Cluster) InCluster() rules.Rule {
	r := rules.Rule{Names: slices.Concat(c.Domains, c.reverse())}
	for _, a := range c.DNS {
		r.Nameservers = append(r.Nameservers, netip.PrefixFrom(a, a.BitLen()))
	}
	r.Nameservers = slices.Concat(r.Nameservers, c.Services, c.Pods, c.Around)
	return r
}

// OutOfCluster returns the condition for names that must not be asked elsewhere. It reports false
// if there are none.
func (c *Cluster) OutOfCluster(e Elsewhere) (rules.Rule, bool) {
	var r rules.Rule
	if e == Forward {
		return r, false
	}
	for _, domain := range c.Domains {
		if e == NXDomain || !mayBePublic(domain) {
			r.Names = append(r.Names, domain)
		}
	}
	for _, p := range slices.Concat(c.Services, c.Pods) {
		if e == NXDomain || isPrivate(p) {
			r.Names = append(r.Names, ReverseZones(p)...)
		}
	}
	return r, len(r.Names) > 0
}

// reverse returns the reverse zones of the networks of the cluster. Those of all private
// networks stand for a network that is not known: the cluster's resolver may know names in them,
// and an upstream cannot.
func (c *Cluster) reverse() (zones []string) {
	networks := slices.Concat(c.Services, c.Pods)
	if len(c.Services) == 0 || len(c.Pods) == 0 {
		networks = append(networks, private...)
	}
	for _, p := range networks {
		for _, zone := range ReverseZones(p) {
			if !slices.Contains(zones, zone) {
				zones = append(zones, zone)
			}
		}
	}
	return zones
}

// private are the networks that are not routed on the internet and that clusters use: RFC 1918,
// RFC 6598 and RFC 4193.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
}

func isPrivate(p netip.Prefix) bool {
	return slices.ContainsFunc(private, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) })
}

// mayBePublic reports whether a public server may have names under a domain: it is not below one
// of the top-level domains that are reserved for other uses.
func mayBePublic(domain string) bool {
	reserved, err := localnames.New(slices.DeleteFunc(localnames.Default(), func(s string) bool { return strings.HasPrefix(s, "<") }))
	if err != nil {
		return true // not reached: the list is a constant
	}
	name, err := wire.AppendParsed(nil, domain)
	return err != nil || !reserved.Contains(name, wire.TypeA)
}
