// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// LINK_INSIDE and LINK_STRICT in bpf/settings.h.
const (
	linkInside = 1
	linkStrict = 2
)

// hostLink is an interface of the host as the guard looks at it.
type hostLink struct {
	index, master int
	name, kind    string
	framed        bool // it carries Ethernet frames
	veth          bool // the host's end of this instance's own link
	subnet        bool // it has an address of its own, in a network
	gateway       bool // the default route of a family leads there
}

// hostLinks lists the interfaces, but for loopback and the links of other instances.
func (n *network) hostLinks() ([]hostLink, error) {
	all, err := n.host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := n.host.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	subnet := make(map[int]bool)
	for _, a := range addrs {
		ones, bits := a.Mask.Size()
		if ones < bits && a.IP.IsGlobalUnicast() {
			subnet[a.LinkIndex] = true
		}
	}
	n.mu.Lock()
	way := n.way
	n.mu.Unlock()
	var out []hostLink
	for _, l := range all {
		a := l.Attrs()
		own := a.Name == n.hostLink()
		if a.Flags&net.FlagLoopback != 0 || !own && bytes.Equal(a.HardwareAddr, macHost) {
			continue
		}
		out = append(out, hostLink{
			index: a.Index, master: a.MasterIndex, name: a.Name, kind: l.Type(), framed: a.EncapType == "ether",
			veth: own, subnet: subnet[a.Index], gateway: a.Index == way.v4.link || a.Index == way.v6.link,
		})
	}
	return out, nil
}

// linkFlags returns what the guard's programs are told of each interface. It reads
// settings of the calling thread's namespace.
func linkFlags(links []hostLink) (map[int]uint32, error) {
	flags := make(map[int]uint32, len(links))
	for index := range insideLinks(links) {
		flags[index] |= linkInside
	}
	all, err := reversePathFilter("all")
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		own, err := reversePathFilter(l.name)
		if err != nil {
			return nil, err
		}
		if max(all, own) == "1" {
			flags[l.index] |= linkStrict
		}
	}
	return flags, nil
}

// reversePathFilter reads rp_filter: 0 off, 1 strict, 2 loose. The greater one of
// "all" and the interface's own counts (ip-sysctl.rst). An interface that just went has
// none.
func reversePathFilter(name string) (string, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/rp_filter")
	if errors.Is(err, fs.ErrNotExist) {
		return "0", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at the reverse path filter of %s: %w", name, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// insideLinks returns those that lead to what runs on this machine, containers and
// virtual machines: virtual ends (veth, tap) that no default route leads to and that
// have no network of their own, and bridges of nothing but such ends. Queries that go
// there have not left the machine (its own nameservers in containers are asked so), and
// sealed containers' queries come in there. All others lead off, and so do the ports of
// a bridge that does.
func insideLinks(links []hostLink) map[int]bool {
	inside := make(map[int]bool)
	bridges := make(map[int]bool)
	for _, l := range links {
		switch l.kind {
		case "bridge", "openvswitch":
			inside[l.index], bridges[l.index] = !l.gateway, true
		case "veth", "tuntap":
			inside[l.index] = l.framed && !l.gateway && !l.subnet
		}
	}
	for _, l := range links {
		if !inside[l.index] && bridges[l.master] {
			inside[l.master] = false
		}
	}
	for _, l := range links {
		if bridges[l.master] && !inside[l.master] {
			inside[l.index] = false
		}
	}
	for index, is := range inside {
		if !is {
			delete(inside, index)
		}
	}
	return inside
}
