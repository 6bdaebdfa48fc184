// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
)

// Bridge is a network of containers on a host, like Docker's default bridge, with
// masqueraded private addresses.
type Bridge struct {
	host   *Host
	name   string
	octet  byte // third octet of the IPv4 network, different for each bridge of a host
	next   byte // last octet of the next container
	routes func(*Host) error
}

// Bridge creates a bridge on host that forwards and masquerades 10.88.OCTET.0/24 and
// fd88:OCTET::/64. It runs nft and returns exec.ErrNotFound if nft is not installed.
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
	// Packets from the bridge's network that leave through another interface get the
	// address of that interface, as with Docker's rule.
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

// Container adds a host on the bridge, with the bridge's host as its default gateway. Its
// interface is eth0. Calls must not be concurrent.
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
