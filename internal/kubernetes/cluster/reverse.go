// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"strconv"
	"strings"
)

// ReverseZones returns the zones that contain exactly the reverse names of a network (RFC 1035
// §3.5, RFC 3596 §2.5): several if its length is not a multiple of a label's.
func ReverseZones(p netip.Prefix) []string {
	p = p.Masked()
	digit, base, suffix := 8, 10, "in-addr.arpa"
	if p.Addr().Is6() {
		digit, base, suffix = 4, 16, "ip6.arpa"
	}
	bytes := p.Addr().AsSlice()
	at := func(i int) int { // label i, from the first
		if digit == 8 {
			return int(bytes[i])
		}
		return int(bytes[i/2]>>(4*(1-i%2))) & 15
	}
	whole := p.Bits() / digit
	for i := range whole {
		suffix = strconv.FormatInt(int64(at(i)), base) + "." + suffix
	}
	rest := p.Bits() % digit
	if rest == 0 {
		return []string{strings.TrimPrefix(suffix, ".")}
	}
	var zones []string
	for n := range 1 << (digit - rest) {
		zones = append(zones, strconv.FormatInt(int64(at(whole)+n), base)+"."+suffix)
	}
	return zones
}
