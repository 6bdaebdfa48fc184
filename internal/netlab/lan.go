// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"net/netip"
)

// Addresses and interfaces of the hosts that LAN creates.
const (
	HostAddr4 = "10.77.0.2"
	HostAddr6 = "fd77::2"
	LANAddr4  = "10.77.0.1"
	LANAddr6  = "fd77::1"

	HostIf = "eth0" // the host's interface to the LAN
	LANIf  = "wire" // the LAN's end of that link, for captures
)

// Nameservers are the addresses of the LAN's plain nameservers: well-known ones, so that
// configurations from elsewhere work unchanged, and ones reserved for documentation.
var Nameservers = []string{
	"8.8.8.8", "8.8.4.4", "1.1.1.1", "9.9.9.9", "192.0.2.53", "198.51.100.53",
	"2001:db8::53", "2001:db8::54", "2001:4860:4860::8888", "2606:4700:4700::1111",
}

// LAN adds a host and a LAN, connected by one link. The LAN is the host's default gateway
// and has all addresses of Nameservers on its loopback interface: a query that was not
// intercepted arrives there, can be captured on LANIf, and can be answered. The LAN has no
// other links.
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
		lan.Addr("lo", hostPrefixes(Nameservers)...),
	)
	if err != nil {
		return nil, nil, err
	}
	return host, lan, errors.Join(host.Route("0.0.0.0/0", LANAddr4), host.Route("::/0", LANAddr6))
}

// hostPrefixes converts addresses to prefixes of full length.
func hostPrefixes(addrs []string) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		addr := netip.MustParseAddr(a)
		out[i] = netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	return out
}
