// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Link is an interface of the host.
type Link struct {
	Index, Master int
	Name, Kind    string // kind as ip-link(8) shows it
	Framed        bool   // it carries Ethernet frames
	Own           bool   // the host's end of this network's veth pair
	HasSubnet     bool   // it has an address in a network
	IsGateway     bool   // a default route of the host uses it
	IsEnclosed    bool   // behind it are only network namespaces of this machine; examined if HasSubnet
}

// Address is an address of the host with the network on its link.
type Address struct {
	Link   int // index
	Prefix netip.Prefix
}

// HostAddresses lists the addresses of the host's interfaces, except loopback addresses.
func (n *Network) HostAddresses() ([]Address, error) {
	all, err := n.hostAddrs()
	if err != nil {
		return nil, err
	}
	var out []Address
	for _, a := range all {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ip = ip.Unmap(); ok && !ip.IsLoopback() {
			out = append(out, Address{a.LinkIndex, netip.PrefixFrom(ip, ones)})
		}
	}
	return out, nil
}

func (n *Network) hostAddrs() ([]netlink.Addr, error) {
	addrs, err := n.host.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return addrs, nil
}

// HostLinks lists the host's interfaces, without loopback and without the veth pairs of
// other instances.
func (n *Network) HostLinks() ([]Link, error) {
	all, err := n.host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := n.hostAddrs()
	if err != nil {
		return nil, err
	}
	hasSubnet := make(map[int]bool)
	for _, a := range addrs {
		ones, bits := a.Mask.Size()
		if ones < bits && a.IP.IsGlobalUnicast() {
			hasSubnet[a.LinkIndex] = true
		}
	}
	n.mu.Lock()
	defaults := n.defaults
	n.mu.Unlock()
	peers := enclosures{network: n, host: make(map[int]netlink.Link, len(all)), known: make(map[int]bool)}
	for _, l := range all {
		peers.host[l.Attrs().Index] = l
	}
	var out []Link
	for _, l := range all {
		a := l.Attrs()
		own := a.Name == n.hostIf()
		if a.Flags&net.FlagLoopback != 0 || !own && bytes.Equal(a.HardwareAddr, MACHost) {
			continue
		}
		link := Link{
			Index: a.Index, Master: a.MasterIndex, Name: a.Name, Kind: l.Type(), Framed: a.EncapType == "ether",
			Own: own, HasSubnet: hasSubnet[a.Index], IsGateway: a.Index == defaults.v4.link || a.Index == defaults.v6.link,
		}
		link.IsEnclosed = link.HasSubnet && !link.IsGateway && peers.isEnclosed(l)
		out = append(out, link)
	}
	return out, nil
}
