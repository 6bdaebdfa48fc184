// SPDX-License-Identifier: Apache-2.0

package rebind

import "net/netip"

// private are the networks that are not on the Internet: this machine's, its links', and those that
// sites number as they like.
var private = parse(
	"0.0.0.0/8",      // this host; many systems take it for loopback
	"10.0.0.0/8",     // RFC 1918
	"100.64.0.0/10",  // shared by providers and VPNs (RFC 6598)
	"127.0.0.0/8",    // loopback
	"169.254.0.0/16", // link-local, also of cloud metadata services
	"172.16.0.0/12",  // RFC 1918
	"192.168.0.0/16", // RFC 1918
	"255.255.255.255/32",
	"::/127",        // unspecified and loopback
	"fc00::/7",      // unique local (RFC 4193)
	"fe80::/10",     // link-local
	"fec0::/10",     // site-local, deprecated
	"::ffff:0:0/96", // IPv4 in the form of sockets: no address of a host
)

// embedding are the networks whose addresses contain an IPv4 address, and where.
var embedding = []struct {
	prefix netip.Prefix
	at     int // offset in bytes
}{
	{netip.MustParsePrefix("::/96"), 12},          // compatible addresses, deprecated
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // NAT64 (RFC 6052)
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // local NAT64 (RFC 8215), with a prefix of 96 bits
	{netip.MustParsePrefix("2002::/16"), 2},       // 6to4 (RFC 3056)
}

func parse(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// IsPrivate reports whether an address is not on the Internet, or contains an IPv4 address that is
// not.
func IsPrivate(a netip.Addr) bool {
	for _, p := range private {
		if p.Contains(a) {
			return true
		}
	}
	for _, e := range embedding {
		if e.prefix.Contains(a) {
			b := a.As16()
			return IsPrivate(netip.AddrFrom4([4]byte(b[e.at:])))
		}
	}
	return false
}
