// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/upstream"
	"sotto/intercept"
)

// defaultGroup is the one that the settings outside of any [[group]] describe;
// it answers what no rule decides.
const defaultGroup = "default"

// plan is what settings come to: everything read, understood and found in order,
// and nothing begun.
type plan struct {
	groups map[string]groupPlan
	rules  rulePlan
	cache  cache.Config // MaxBytes 0: there is none

	maxQueries, maxWaiting, maxTCP int

	level      slog.Level
	logQueries bool
	control    string // where to be told things; "": nowhere
	cacheFile  string // where to keep the cache over a restart; "": nowhere
	listen     []netip.AddrPort
	cgroups    []string // as they were given
	exclude    []string
	ports      []uint16
	prefix4    netip.Prefix
	prefix6    netip.Prefix
	guard      intercept.GuardMode
	onExit     string

	whenReplaced string
}

// groupPlan is an upstream group to be made. Those of one key are the same.
type groupPlan struct {
	cfg upstream.Config
	key string
}

// planFor says for which verb a plan is: `serve` knows no origins.
type planFor struct {
	serve bool
	read  func(file string) ([]byte, error) // readFile but in tests
}

// plan reads and checks everything that s says of the forwarder.
func (s *settings) plan(f planFor) (p plan, err error) {
	p.logQueries, p.cacheFile = s.LogQueries, s.CacheFile
	p.cgroups, p.exclude = s.Cgroups, s.Exclude
	p.control = s.controlPath(defaultControl)
	if f.serve {
		p.control = s.controlPath("")
	}
	if p.level, err = s.level(); err != nil {
		return p, err
	}
	if p.groups, err = s.planGroups(f); err != nil {
		return p, err
	}
	if p.rules, err = s.planRules(f, p.groups); err != nil {
		return p, err
	}
	if p.cache, err = s.planCache(); err != nil {
		return p, err
	}
	if err = s.planNumbers(&p); err != nil {
		return p, err
	}
	if err = s.planSeal(&p); err != nil {
		return p, err
	}
	return p, s.planAddresses(&p)
}

func (s *settings) level() (level slog.Level, err error) {
	if level.UnmarshalText([]byte(s.LogLevel)) != nil {
		return 0, s.wrongf("log-level", "there is no level %q: want debug, info, warn or error", s.LogLevel)
	}
	return level, nil
}

// planGroups reads the default group and the named ones.
func (s *settings) planGroups(f planFor) (map[string]groupPlan, error) {
	groups := map[string]groupPlan{}
	var err error
	if groups[defaultGroup], err = s.planGroup(f, "", s.groupSettings); err != nil {
		return nil, err
	}
	for i, g := range s.Groups {
		path := fmt.Sprintf("group[%d]", i)
		_, taken := groups[g.Name]
		switch {
		case g.Name == "":
			return nil, s.wrongf(path, `it has no name: add name = "work", say`)
		case !goodGroup.MatchString(g.Name):
			return nil, s.wrongf(path+".name", "%q is no name for a group: want up to 64 letters, digits, hyphens, dots and underscores", g.Name)
		case slices.Contains(reservedNames, g.Name):
			return nil, s.wrongf(path+".name", "%q means something else: give the group another name", g.Name)
		case taken:
			return nil, s.wrongf(path+".name", "there is another group %q: give one of them another name", g.Name)
		case len(g.Upstream) == 0:
			return nil, s.wrongf(path, `group %q has no servers: add upstream = ["192.0.2.1#dns.example"], say`, g.Name)
		}
		if groups[g.Name], err = s.planGroup(f, path+".", s.withDefaults(path, g.groupSettings)); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// withDefaults is the group at path with Sotto's own choice where it says nothing.
func (s *settings) withDefaults(path string, g groupSettings) groupSettings {
	def := defaultSettings().groupSettings
	if !s.places.has(path + ".policy") {
		g.Policy = def.Policy
	}
	if !s.places.has(path + ".profile") {
		g.Profile = def.Profile
	}
	if !s.places.has(path + ".hedge-share") {
		g.HedgeShare = def.HedgeShare
	}
	return g
}

// goodGroup keeps names what logs can show, and the cache can keep beside answers
// ([forwarder.Route.Scope]).
var goodGroup = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// planGroup reads one group, whose settings' paths begin with prefix.
func (s *settings) planGroup(f planFor, prefix string, g groupSettings) (p groupPlan, err error) {
	pins := make([]upstream.Pin, len(g.Pins))
	for i, text := range g.Pins {
		if pins[i], err = upstream.ParsePin(text); err != nil {
			return p, s.wrong(fmt.Sprintf("%spins[%d]", prefix, i), err)
		}
	}
	if len(g.Upstream) == 0 {
		return p, s.wrongf(prefix+"upstream", "it names nobody: name one, such as quad9 or 192.0.2.1#dns.example")
	}
	for i, text := range g.Upstream {
		servers, err := upstream.ParseServer(text)
		if err != nil {
			return p, s.wrong(fmt.Sprintf("%supstream[%d]", prefix, i), err)
		}
		for i := range servers {
			servers[i].Pins = pins
		}
		p.cfg.Servers = append(p.cfg.Servers, servers...)
	}
	if p.cfg.Policy, err = upstream.ParsePolicy(g.Policy); err != nil {
		return p, s.wrong(prefix+"policy", err)
	}
	if p.cfg.Profile, err = upstream.ParseProfile(g.Profile); err != nil {
		return p, s.wrong(prefix+"profile", err)
	}
	if !(g.HedgeShare > 0 && g.HedgeShare <= 1) { // NaN is neither
		return p, s.wrongf(prefix+"hedge-share", "%v is no share: want more than 0 and at most 1; policies other than hedged ask nobody twice", g.HedgeShare)
	}
	p.cfg.HedgeShare = g.HedgeShare
	var sum string
	if p.cfg.RootCAs, sum, err = authorities(f, g.CAFile); err != nil {
		return p, s.at(prefix+"ca-file", err)
	}
	// What only all of it together shows: a server named twice, say.
	made, err := upstream.New(p.cfg)
	if err != nil {
		return p, s.wrong(prefix+"upstream", err)
	}
	p.key = fmt.Sprintf("%q %q %s %s %v %s", g.Upstream, g.Pins, g.Policy, g.Profile, g.HedgeShare, sum)
	return p, made.Close()
}

// authorities returns the system's certificate authorities and those in file,
// and what tells one file's text from another's.
func authorities(f planFor, file string) (pool *x509.CertPool, sum string, err error) {
	if file == "" {
		return nil, "", nil // the system's, as crypto/tls finds them
	}
	text, err := f.read(file)
	if err != nil {
		return nil, "", fmt.Errorf("read certificate authorities: %w", err)
	}
	if pool, err = x509.SystemCertPool(); err != nil {
		pool = x509.NewCertPool() // a machine without any has the file's alone
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, "", fmt.Errorf("read certificate authorities: %s holds no PEM certificate", file)
	}
	return pool, fmt.Sprintf("%x", sha256.Sum256(text)), nil
}

// planCache reads what is kept, and for how long.
func (s *settings) planCache() (cfg cache.Config, err error) {
	if s.CacheMiB < 0 || s.CacheMiB > maxCacheMiB {
		return cfg, s.wrongf("cache-mib", "it is %d: want 0 (no cache) to %d", s.CacheMiB, maxCacheMiB)
	}
	cfg.MaxBytes = int64(s.CacheMiB) << 20
	cfg.Prefetch = s.Prefetch
	for _, d := range []struct {
		key, text string
		to        *time.Duration
		min, max  time.Duration
	}{
		{"min-ttl", s.MinTTL, &cfg.MinTTL, 0, time.Hour},
		{"max-ttl", s.MaxTTL, &cfg.MaxTTL, time.Second, maxTTL},
		{"max-negative-ttl", s.MaxNegativeTTL, &cfg.MaxNegativeTTL, time.Second, maxTTL},
		{"serve-stale", s.ServeStale, &cfg.MaxStale, 0, maxTTL},
	} {
		if *d.to, err = time.ParseDuration(d.text); err != nil {
			return cfg, s.wrongf(d.key, `%q is no time: want a number with its unit, such as "30s", "5m" or "24h"`, d.text)
		}
		if *d.to < d.min || *d.to > d.max {
			return cfg, s.wrongf(d.key, "it is %s: want %s to %s", d.text, d.min, d.max)
		}
	}
	if cfg.MinTTL > min(cfg.MaxTTL, cfg.MaxNegativeTTL) {
		return cfg, s.wrongf("min-ttl", "it is %s, with max-ttl %s and max-negative-ttl %s: want it no longer than either", s.MinTTL, s.MaxTTL, s.MaxNegativeTTL)
	}
	return cfg, nil
}

const (
	// maxTTL is a week: what RFC 8767 §4 advises as the most.
	maxTTL = 7 * 24 * time.Hour

	// maxCacheMiB is a tebibyte; more is a slip of the finger.
	maxCacheMiB = 1 << 20
)

// planNumbers reads limits and ports.
func (s *settings) planNumbers(p *plan) error {
	for _, n := range []struct {
		key string
		v   int
		to  *int
	}{
		{"max-queries", s.MaxQueries, &p.maxQueries},
		{"max-waiting", s.MaxWaiting, &p.maxWaiting},
		{"max-tcp", s.MaxTCP, &p.maxTCP},
	} {
		if n.v < 1 || n.v > maxLimit {
			return s.wrongf(n.key, "it is %d: want 1 to %d", n.v, maxLimit)
		}
		*n.to = n.v
	}
	for i, port := range s.Ports {
		if port < 1 || port > 65535 {
			return s.wrongf(fmt.Sprintf("ports[%d]", i), "%d is no port number: want 1 to 65535", port)
		}
		p.ports = append(p.ports, uint16(port))
	}
	return nil
}

// maxLimit is more than any machine has the memory for.
const maxLimit = 1 << 24

// planAddresses reads where to listen, and the networks of the virtual addresses.
func (s *settings) planAddresses(p *plan) error {
	if len(s.Listen) == 0 {
		return s.wrongf("listen", "there is no address to listen on: give one, such as 127.0.0.1:53")
	}
	for i, text := range s.Listen {
		addr, err := listenAddr(text)
		if err != nil {
			return s.wrong(fmt.Sprintf("listen[%d]", i), err)
		}
		p.listen = append(p.listen, addr)
	}
	for _, n := range []struct {
		key, text, example string
		bits               int
		to                 *netip.Prefix
	}{
		{"prefix4", s.Prefix4, "198.19.0.0/16", 32, &p.prefix4},
		{"prefix6", s.Prefix6, "fd73:6f74:746f::/64", 128, &p.prefix6},
	} {
		var err error
		if *n.to, err = netip.ParsePrefix(n.text); err != nil || n.to.Addr().BitLen() != n.bits || n.to.Masked() != *n.to {
			return s.wrongf(n.key, "%q is no such network: want one like %s", n.text, n.example)
		}
	}
	return nil
}

var reservedNames = []string{defaultGroup, usePlain, useRefuse, useNoData}

// groupNames lists the groups for an error.
func groupNames(groups map[string]groupPlan) string {
	var names []string
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
