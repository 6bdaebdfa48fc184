// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"sotto/intercept/network"
	"sotto/internal/daemon"
)

const (
	sysctl4 = "/proc/sys/net/ipv4/conf/"
	sysctl6 = "/proc/sys/net/ipv6/conf/"
)

// sysctl reads a number below /proc/sys; 0 if it cannot be read.
func sysctl(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// hasIPv6 reports whether the kernel has IPv6, and whether it is enabled on this host.
func hasIPv6() (kernel, enabled bool) {
	_, err := os.Stat(sysctl6)
	return err == nil, err == nil && sysctl(sysctl6+"all/disable_ipv6") == 0
}

func checkIPv6(context.Context, *machine) Result {
	const name = "IPv6"
	switch kernel, enabled := hasIPv6(); {
	case !kernel:
		return ok(name, "this kernel has none: only IPv4 nameservers and upstreams are reachable")
	case !enabled:
		return warning(name, "sysctl -w net.ipv6.conf.all.disable_ipv6=0, unless it is disabled on purpose",
			"disabled (net.ipv6.conf.all.disable_ipv6 = 1): queries to IPv6 nameservers fail, and IPv6 upstreams are not reachable")
	}
	return ok(name, "enabled")
}

// checkReversePath finds interfaces with a strict reverse path filter, by which no reply from a
// virtual address can come in.
func checkReversePath(context.Context, *machine) Result {
	const name = "reverse path filter"
	links, err := net.Interfaces()
	if err != nil {
		return warning(name, "", "cannot list interfaces: %v", err)
	}
	strict := strictLinks(links, func(link string) int { return sysctl(sysctl4 + link + "/rp_filter") })
	if len(strict) > 0 {
		return warning(name, "sysctl -w net.ipv4.conf.all.rp_filter=2 (loose)",
			"strict on %s: IPv4 queries of sockets that are bound to the interface fail (EHOSTUNREACH)", strings.Join(strict, ", "))
	}
	return ok(name, "not strict on any interface")
}

// strictLinks returns the interfaces with a strict filter. The kernel uses the maximum of the
// setting of the interface and that of "all": 0 is off, 1 strict, 2 loose.
func strictLinks(links []net.Interface, filter func(link string) int) (out []string) {
	for _, l := range links {
		external := l.Flags&net.FlagUp != 0 && l.Flags&net.FlagLoopback == 0 && !strings.HasPrefix(l.Name, daemon.InstanceName)
		if external && max(filter("all"), filter(l.Name)) == 1 {
			out = append(out, l.Name)
		}
	}
	return out
}

func checkRoutes(_ context.Context, m *machine) Result {
	const name = "routes"
	p4, p6 := m.seal.Prefix4, m.seal.Prefix6
	if !p4.IsValid() || !p6.IsValid() {
		p4, p6 = network.DefaultPrefix4, network.DefaultPrefix6
	}
	err := network.CheckRoutes(network.Config{Name: daemon.InstanceName, Link: daemon.InstanceName, Prefix4: p4, Prefix6: p6})
	var conflict *network.ConflictError
	switch {
	case errors.As(err, &conflict):
		return failed(name, fmt.Sprintf("set %s to a network that is free here, or remove the route: ip route del %s", conflict.Setting, conflict.Route),
			"the virtual addresses %s are routed elsewhere: %s", conflict.Prefix, conflict.Route)
	case errors.Is(err, fs.ErrPermission) && m.lackCaps:
		return needsCapabilities(name)
	case errors.Is(err, fs.ErrPermission):
		return needsRoot(name)
	case err != nil:
		return failed(name, "choose another prefix", "%v", err)
	}
	return ok(name, "%s and %s are free", p4, p6)
}
