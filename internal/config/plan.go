// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"sotto/forwarder/cache"
	"sotto/intercept"
)

// Plan is the result of validating [Settings].
type Plan struct {
	Groups map[string]Group // by name, [DefaultGroup] included
	Rules  Rules
	Cache  cache.Config // MaxBytes is 0 if there is no cache

	Shared *Shared // nil: answers are not shared with other instances

	MaxQueries, MaxWaiting, MaxRelays, MaxTCP int

	Level      slog.Level
	LogQueries bool
	QueryLog   QueryLog
	Dnstap     Dnstap
	Control    string // path of the control socket; "" if there is none
	// ControlGroup is the ID of the group whose members may read over the control socket; 0: none.
	ControlGroup int

	ListDir      string // directory of the lists that were fetched
	ListInterval time.Duration

	Metrics netip.AddrPort // address of metrics and the web page; the zero value: none

	FixedOrder bool // the addresses of an answer are not rotated

	CacheFile string // file that keeps the cache over a restart; "" if there is none
	Listen    []netip.AddrPort
	Drain     time.Duration // how long `serve` answers after it was stopped
	Cgroups   []string      // as written in the settings
	Exclude   []string      // as written in the settings
	Ports     []uint16
	Prefix4   netip.Prefix
	Prefix6   netip.Prefix
	Guard     intercept.GuardMode
	// Attribution is set if the process of each query, and the names of workloads, are found.
	Attribution bool
	// KernelAnswers describes whether the kernel answers cached queries.
	KernelAnswers KernelAnswers
	Local         LocalPlan
	OnExit        string // [ExitStrict], [ExitOpen] or [ExitClosed]

	WhenReplaced string // [ReplacedExit] or [ReplacedWait]
	ProbeSocket  string // path of the socket for probes; "" if there is none

	Kubernetes KubernetesPlan
}

// Options are the inputs of [Settings.Plan] other than the settings.
type Options struct {
	// Serve is set for `sotto serve`, which does not know the workload and the nameserver
	// of a query.
	Serve bool

	// Read reads a file that a setting names: [ReadFile], except in tests.
	Read func(file string) ([]byte, error)

	// StateDir is the directory for state that the service manager has created, or "".
	StateDir string

	Kubernetes Kubernetes
}

// Plan validates the settings and reads the files that they name.
func (s *Settings) Plan(o Options) (p Plan, err error) {
	p.LogQueries, p.CacheFile, p.Attribution = s.LogQueries, s.CacheFile, s.Attribution
	p.Cgroups, p.Exclude, p.ProbeSocket = s.Cgroups, s.Exclude, s.ProbeSocket
	p.Control = s.ControlPath(DefaultControl)
	if o.Serve {
		p.Control = s.ControlPath("")
	}
	if err = s.checkSocket("control", p.Control); err != nil {
		return p, err
	}
	if err = s.checkSocket("probe-socket", p.ProbeSocket); err != nil {
		return p, err
	}
	if p.Level, err = s.level(); err != nil {
		return p, err
	}
	if p.ControlGroup, err = s.controlGroup(); err != nil {
		return p, err
	}
	if p.Groups, err = s.planGroups(o); err != nil {
		return p, err
	}
	if err = s.planLists(o, &p); err != nil {
		return p, err
	}
	if err = s.planPods(o, &p, nil); err != nil {
		return p, err
	}
	if p.Cache, err = s.planCache(); err != nil {
		return p, err
	}
	if p.FixedOrder, err = s.fixedOrder(); err != nil {
		return p, err
	}
	if p.Shared, err = s.planShared(o); err != nil {
		return p, err
	}
	if err = s.planLogs(&p); err != nil {
		return p, err
	}
	if err = s.planNumbers(&p); err != nil {
		return p, err
	}
	if err = s.planSeal(&p); err != nil {
		return p, err
	}
	if err = s.planKernelAnswers(&p); err != nil {
		return p, err
	}
	return p, s.planAddresses(&p)
}

// Warn logs settings that are valid but probably not intended, and the cluster that was found.
func (p *Plan) Warn(log *slog.Logger) {
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		for _, text := range p.Groups[name].warnings {
			log.Warn("configuration: "+text, "group", name)
		}
	}
	p.warnLogs(log)
	p.Kubernetes.Report(log)
	for _, text := range p.Rules.warnings {
		log.Warn("configuration: " + text)
	}
}

func (s *Settings) level() (level slog.Level, err error) {
	if level, err = ParseLevel(s.LogLevel); err != nil {
		return 0, s.invalidf("log-level", "%v", err)
	}
	return level, nil
}

// ParseLevel parses a level of the log.
func ParseLevel(name string) (level slog.Level, err error) {
	if level.UnmarshalText([]byte(name)) != nil {
		return 0, fmt.Errorf("unknown level %q: want debug, info, warn or error", name)
	}
	return level, nil
}

const (
	// maxTTL is a week, the longest time that RFC 8767 §4 recommends.
	maxTTL = 7 * 24 * time.Hour

	// maxDrain is longer than any load balancer takes to stop sending queries.
	maxDrain = 10 * time.Minute

	// maxCacheMiB is a tebibyte; more is a typing error.
	maxCacheMiB = 1 << 20

	// maxLimit is more than any machine has memory for.
	maxLimit = 1 << 24
)

// planCache reads the size of the cache and how long it keeps answers.
func (s *Settings) planCache() (cfg cache.Config, err error) {
	if s.CacheMiB < 0 || s.CacheMiB > maxCacheMiB {
		return cfg, s.invalidf("cache-mib", "it is %d: want 0 (no cache) to %d", s.CacheMiB, maxCacheMiB)
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
		if *d.to, err = s.duration(d.key, d.text, d.min, d.max); err != nil {
			return cfg, err
		}
	}
	if cfg.MinTTL > min(cfg.MaxTTL, cfg.MaxNegativeTTL) {
		return cfg, s.invalidf("min-ttl", "it is %s, longer than max-ttl (%s) or max-negative-ttl (%s): want it no longer than either", s.MinTTL, s.MaxTTL, s.MaxNegativeTTL)
	}
	return cfg, nil
}

// Values of the setting rrset-order.
const (
	OrderRotate = "rotate"
	OrderFixed  = "fixed"
)

func (s *Settings) fixedOrder() (bool, error) {
	switch s.RRsetOrder {
	case OrderRotate, OrderFixed:
		return s.RRsetOrder == OrderFixed, nil
	}
	return false, s.invalidf("rrset-order", `it is %q: want "rotate" or "fixed"`, s.RRsetOrder)
}

// duration reads the setting called key, which has to be from least to most.
func (s *Settings) duration(key, text string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, s.invalidf(key, `%q is not a duration: want a number with its unit, such as "30s", "5m" or "24h"`, text)
	}
	if d < least || d > most {
		return 0, s.invalidf(key, "it is %s: want %s to %s", text, least, most)
	}
	return d, nil
}

// planNumbers reads limits and ports.
func (s *Settings) planNumbers(p *Plan) error {
	for _, n := range []struct {
		key string
		v   int
		to  *int
	}{
		{"max-queries", s.MaxQueries, &p.MaxQueries},
		{"max-waiting", s.MaxWaiting, &p.MaxWaiting},
		{"max-relays", s.MaxRelays, &p.MaxRelays},
		{"max-tcp", s.MaxTCP, &p.MaxTCP},
	} {
		if n.v < 1 || n.v > maxLimit {
			return s.invalidf(n.key, "it is %d: want 1 to %d", n.v, maxLimit)
		}
		*n.to = n.v
	}
	if len(s.Ports) > intercept.MaxPorts {
		return s.invalidf("ports", "there are %d: want at most %d", len(s.Ports), intercept.MaxPorts)
	}
	for i, port := range s.Ports {
		if port < 1 || port > 65535 {
			return s.invalidf(fmt.Sprintf("ports[%d]", i), "%d is not a port number: want 1 to 65535", port)
		}
		p.Ports = append(p.Ports, uint16(port))
	}
	return nil
}

// planAddresses reads the addresses to listen on and the virtual prefixes.
func (s *Settings) planAddresses(p *Plan) error {
	if len(s.Listen) == 0 {
		return s.invalidf("listen", "no address to listen on: add one, such as 127.0.0.1:53")
	}
	for i, text := range s.Listen {
		addr, err := ListenAddr(text)
		if err != nil {
			return s.invalid(fmt.Sprintf("listen[%d]", i), err)
		}
		p.Listen = append(p.Listen, addr)
	}
	var err error
	if p.Drain, err = s.duration("drain", s.Drain, 0, maxDrain); err != nil {
		return err
	}
	if s.Metrics != "" {
		if p.Metrics, err = ListenAddr(s.Metrics); err != nil {
			return s.invalid("metrics", err)
		}
	}
	for _, n := range []struct {
		key, text, example string
		bits, longest      int
		to                 *netip.Prefix
	}{
		{"prefix4", s.Prefix4, "198.19.0.0/16", 32, intercept.LongestPrefix4, &p.Prefix4},
		{"prefix6", s.Prefix6, "fd73:6f74:746f::/64", 128, intercept.LongestPrefix6, &p.Prefix6},
	} {
		var err error
		if *n.to, err = netip.ParsePrefix(n.text); err != nil || n.to.Addr().BitLen() != n.bits || n.to.Addr().Is4In6() || n.to.Masked() != *n.to {
			return s.invalidf(n.key, "%q is not such a network: want one like %s", n.text, n.example)
		}
		if n.to.Bits() > n.longest {
			return s.invalidf(n.key, "%s has too few addresses: want /%d or larger", n.text, n.longest)
		}
	}
	return nil
}

// ListenAddr parses an address with its port. A port alone (":5300") means all addresses
// of both families.
func ListenAddr(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q: want ADDR:PORT, such as 127.0.0.1:5300, [::1]:5300 or :5300", text)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q: %q is not a port number: want 0 to 65535", text, port)
	}
	addr := netip.IPv6Unspecified()
	if host != "" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("listen address %q: %q is not an IP address: want an address, because resolving a name needs DNS", text, host)
		}
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}
