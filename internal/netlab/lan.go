// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
)

// Addresses of what LAN builds.
const (
	HostAddr4 = "10.77.0.2"
	HostAddr6 = "fd77::2"
	LANAddr4  = "10.77.0.1"
	LANAddr6  = "fd77::1"

	HostIf = "eth0" // the host's way to the LAN
	LANIf  = "wire" // the LAN's end of it: what a capture of the wire listens on
)

// Nameservers are the addresses on which the LAN would be asked in the clear:
// well-known ones, so that a configuration used elsewhere works unchanged, and
// documentation ones.
var Nameservers = []string{
	"8.8.8.8", "8.8.4.4", "1.1.1.1", "9.9.9.9", "192.0.2.53", "198.51.100.53",
	"2001:db8::53", "2001:db8::54", "2001:4860:4860::8888", "2606:4700:4700::1111",
}

// LAN adds a host and the network that it is connected to, joined by one wire.
// The lan is the host's default gateway and holds every address of Nameservers
// on its loopback, so that a query which nobody caught arrives there, can be
// captured on LANIf, and can be answered. Beyond the lan there is nothing.
func (l *Lab) LAN() (host, lan *Host, err error) {
	if host, err = l.Host("host"); err != nil {
		return nil, nil, err
	}
	if lan, err = l.Host("lan"); err != nil {
		return nil, nil, err
	}
	if err = l.Wire(host, HostIf, lan, LANIf); err != nil {
		return nil, nil, err
	}
	err = errors.Join(
		host.Addr(HostIf, HostAddr4+"/24", HostAddr6+"/64"),
		lan.Addr(LANIf, LANAddr4+"/24", LANAddr6+"/64"),
		lan.Addr("lo", single(Nameservers)...),
	)
	if err != nil {
		return nil, nil, err
	}
	return host, lan, errors.Join(host.Route("0.0.0.0/0", LANAddr4), host.Route("::/0", LANAddr6))
}

// single turns addresses into prefixes of one address each.
func single(addrs []string) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		addr := netip.MustParseAddr(a)
		out[i] = netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	return out
}

// Bridge is a network of containers on a host, as Docker's default bridge is:
// private addresses, masqueraded.
type Bridge struct {
	host   *Host
	name   string
	octet  byte // third of the IPv4 network, so that one host may have several
	next   byte // last octet of the next container
	routes func(*Host) error
}

// Bridge makes the host forward and masquerade 10.88.OCTET.0/24 and
// fd88:OCTET::/64 behind a bridge called name. It runs nft; without that
// program the error is exec.ErrNotFound.
func (l *Lab) Bridge(ctx context.Context, host *Host, name string, octet byte) (*Bridge, error) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil, fmt.Errorf("masquerade behind %s: %w", name, err)
	}
	if err := host.links.Bridge(name); err != nil {
		return nil, fmt.Errorf("in %s: %w", host.Name, err)
	}
	v4, v6 := fmt.Sprintf("10.88.%d.", octet), fmt.Sprintf("fd88:%d::", octet)
	err = errors.Join(
		host.Addr(name, v4+"1/24", v6+"1/64"),
		host.Sysctl("net/ipv4/ip_forward", "1", "?net/ipv6/conf/all/forwarding", "1"),
	)
	if err != nil {
		return nil, err
	}
	// Anything that leaves the bridge's network by another interface takes the
	// address of that interface, as Docker's rule does it.
	for _, family := range [][2]string{{"ip", v4 + "0/24"}, {"ip6", v6 + "/64"}} {
		rules := fmt.Sprintf("table %[1]s %[2]s { chain post { type nat hook postrouting priority 100; "+
			"%[1]s saddr %[3]s oifname != %[2]q masquerade; }; }", family[0], name, family[1])
		if out, err := host.Command(ctx, nil, nft, rules).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("masquerade behind %s: %w: %s", name, err, out)
		}
	}
	return &Bridge{host: host, name: name, octet: octet, next: 2, routes: func(c *Host) error {
		return errors.Join(c.Route("0.0.0.0/0", v4+"1"), c.Route("::/0", v6+"1"))
	}}, nil
}

// Container adds a host on the bridge whose way out is the bridge's host. Its
// interface is called eth0. Calls must not be concurrent.
func (l *Lab) Container(b *Bridge, name string) (*Host, error) {
	c, err := l.Host(name)
	if err != nil {
		return nil, err
	}
	port := fmt.Sprintf("%s-%d", b.name, b.next)
	if err := l.Wire(b.host, port, c, "eth0"); err != nil {
		return nil, err
	}
	if err := b.host.links.Enslave(port, b.name); err != nil {
		return nil, fmt.Errorf("in %s: %w", b.host.Name, err)
	}
	err = c.Addr("eth0", fmt.Sprintf("10.88.%d.%d/24", b.octet, b.next), fmt.Sprintf("fd88:%d::%d/64", b.octet, b.next))
	b.next++
	return c, errors.Join(err, b.routes(c))
}
