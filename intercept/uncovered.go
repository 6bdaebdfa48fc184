// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/sockets"
)

// Uncovered is a local resolver whose own queries are not sealed.
type Uncovered struct {
	Addr   netip.Addr // of the nameserver
	Cgroup string     // path of its cgroup
}

// UncoveredResolvers returns those of the nameservers to which queries are left alone although a seal
// by cfg does not cover the process that answers there. It only reads.
func UncoveredResolvers(cfg Config, nameservers []netip.Addr) ([]Uncovered, error) {
	if cfg.LocalResolvers != LocalKeep {
		return nil, nil
	}
	root, err := cgroup.Root()
	if err != nil {
		return nil, err
	}
	paths, err := cgroup.NewPaths(root)
	if err != nil {
		return nil, err
	}
	defer paths.Close()
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	var out []Uncovered
	for _, ns := range nameservers {
		if ns = ns.Unmap().WithZone(""); !ns.IsLoopback() && !slices.Contains(own, ns) {
			continue
		}
		bound, err := boundTo(ns, cfg.Ports)
		if err != nil {
			return out, err
		}
		for _, s := range bound {
			path := paths.Find(s.Cgroup)
			if path != "" && (!cgroup.IsWithin(root, path, cfg.Cgroups) || cgroup.IsWithin(root, path, cfg.Exclude)) {
				out = append(out, Uncovered{ns, path})
				break
			}
		}
	}
	return out, nil
}

// ownAddresses returns the addresses of the calling process's network namespace.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			addr, _ := netip.AddrFromSlice(n.IP)
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// boundTo returns the UDP sockets that receive queries to addr, an address of the calling
// thread's network namespace: those bound to it, or without such a socket those bound to all
// addresses.
func boundTo(addr netip.Addr, ports []uint16) ([]sockets.Socket, error) {
	if len(ports) == 0 {
		ports = []uint16{53}
	}
	var exact, all []sockets.Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := sockets.List(family, unix.IPPROTO_UDP)
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			switch {
			case !slices.Contains(ports, s.Local.Port()):
			case s.Local.Addr() == addr:
				exact = append(exact, s)
			case s.Local.Addr().IsUnspecified():
				all = append(all, s)
			}
		}
	}
	if len(exact) > 0 {
		return exact, nil
	}
	return all, nil
}
