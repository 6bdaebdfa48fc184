// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"fmt"
	"net/netip"
	"slices"
)

// WellKnown is the prefix that is reserved for translation (RFC 6052 §2.1).
var WellKnown = netip.MustParsePrefix("64:ff9b::/96")

// lengths are the lengths of prefixes (RFC 6052 §2.2), the most usual one first.
var lengths = []int{96, 64, 56, 48, 40, 32}

// ParsePrefix parses a prefix for translation.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is6() || p.Addr().Is4In6():
		return p, fmt.Errorf(`read the prefix %q: want an IPv6 prefix such as "64:ff9b::/96", or "auto"`, s)
	case !slices.Contains(lengths, p.Bits()):
		return p, fmt.Errorf("read the prefix %q: its length is %d: want 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)", s, p.Bits())
	case p.Masked() != p:
		return p, fmt.Errorf("read the prefix %q: bits after the first %d are set: write %s", s, p.Bits(), p.Masked())
	case p.Addr().As16()[8] != 0:
		return p, fmt.Errorf("read the prefix %q: bits 64 to 71 have to be zero (RFC 6052 §2.2)", s)
	}
	return p, nil
}

// Embed returns the IPv6 address that stands for an IPv4 address (RFC 6052 §2.2). Bits 64 to 71
// are skipped.
func Embed(p netip.Prefix, v4 netip.Addr) netip.Addr {
	a := p.Addr().As16()
	at := p.Bits() / 8
	for _, b := range v4.As4() {
		if at == 8 {
			at++
		}
		a[at] = b
		at++
	}
	return netip.AddrFrom16(a)
}

// Extract returns the IPv4 address that an address of the prefix stands for. It reports false for
// an address outside of the prefix, or with a bit set from 64 to 71.
func Extract(p netip.Prefix, v6 netip.Addr) (v4 netip.Addr, ok bool) {
	if !v6.Is6() || !p.Contains(v6) || v6.As16()[8] != 0 {
		return v4, false
	}
	return extract(v6.As16(), p.Bits()), true
}

func extract(a [16]byte, bits int) netip.Addr {
	var b [4]byte
	at := bits / 8
	for i := range b {
		if at == 8 {
			at++
		}
		b[i] = a[at]
		at++
	}
	return netip.AddrFrom4(b)
}

// The addresses of ipv4only.arpa (RFC 7050 §2.2).
var wellKnownV4 = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})}

// FindPrefix returns the prefix by which an IPv6 address of ipv4only.arpa was made (RFC 7050 §3).
// It reports false if the address contains no well-known one, or more than one.
func FindPrefix(v6 netip.Addr) (p netip.Prefix, ok bool) {
	if !v6.Is6() || v6.Is4In6() {
		return p, false
	}
	a := v6.As16()
	for _, bits := range lengths {
		if a[8] != 0 && bits != 96 || !slices.Contains(wellKnownV4, extract(a, bits)) {
			continue
		}
		found := netip.PrefixFrom(v6, bits).Masked()
		if _, err := ParsePrefix(found.String()); err != nil {
			continue
		}
		if ok {
			return netip.Prefix{}, false
		}
		p, ok = found, true
	}
	return p, ok
}

// mapped are IPv4 addresses in IPv6 form, which are no addresses of a host (RFC 6147 §5.1.4).
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// notGlobal are the IPv4 networks that the well-known prefix does not stand for: those of RFC 5735
// and RFC 6890 that are not reachable globally.
var notGlobal = func() (list []netip.Prefix) {
	for _, text := range []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}()

// translates reports whether the prefix may stand for an IPv4 address.
func translates(p netip.Prefix, v4 netip.Addr) bool {
	return p != WellKnown || !slices.ContainsFunc(notGlobal, func(n netip.Prefix) bool { return n.Contains(v4) })
}
