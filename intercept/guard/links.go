// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"sotto/intercept/network"
)

// Flags of an interface; LINK_INSIDE and LINK_STRICT in bpf/settings.h.
const (
	linkInside = 1
	linkStrict = 2
)

// linkFlags returns the flags of each interface by its index. It reads sysctls of the calling
// thread's namespace.
func linkFlags(links []network.Link) (map[int]uint32, error) {
	flags := make(map[int]uint32, len(links))
	for index := range InsideLinks(links) {
		flags[index] |= linkInside
	}
	all, err := reversePathFilter("all")
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		own, err := reversePathFilter(l.Name)
		if err != nil {
			return nil, err
		}
		if max(all, own) == "1" {
			flags[l.Index] |= linkStrict
		}
	}
	return flags, nil
}

// reversePathFilter reads rp_filter: 0 off, 1 strict, 2 loose. The kernel uses the maximum of
// "all" and the interface's own setting (ip-sysctl.rst). It returns 0 for an interface that
// was just removed.
func reversePathFilter(name string) (string, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/rp_filter")
	if errors.Is(err, fs.ErrNotExist) {
		return "0", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the reverse path filter of %s: %w", name, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// InsideLinks returns the interfaces that connect containers and virtual machines of this
// machine: virtual ends (veth, tap) without a default route and without a network of their
// own, veths with a network behind which are only network namespaces of this machine
// (systemd-nspawn --network-veth), and bridges with only such ends as ports. Queries that
// leave by them have not left the machine (it may use nameservers in containers), and queries
// of sealed containers arrive by them. All other interfaces are external, including all ports
// of a bridge with an external port.
func InsideLinks(links []network.Link) map[int]bool {
	inside := make(map[int]bool)
	bridges := make(map[int]bool)
	for _, l := range links {
		switch l.Kind {
		case "bridge", "openvswitch":
			inside[l.Index], bridges[l.Index] = !l.IsGateway, true
		case "veth", "tuntap":
			inside[l.Index] = l.Framed && !l.IsGateway && (!l.HasSubnet || l.IsEnclosed)
		}
	}
	for _, l := range links {
		if !inside[l.Index] && bridges[l.Master] {
			inside[l.Master] = false
		}
	}
	for _, l := range links {
		if bridges[l.Master] && !inside[l.Master] {
			inside[l.Index] = false
		}
	}
	for index, is := range inside {
		if !is {
			delete(inside, index)
		}
	}
	return inside
}
