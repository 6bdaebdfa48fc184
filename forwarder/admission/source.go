// SPDX-License-Identifier: Apache-2.0

package admission

import "net/netip"

// Source identifies a workload, or a client address where the workload is not
// known. The address alone cannot identify a workload: it may have several, and
// behind a container network's address translation share one with others.
type Source struct {
	workload string
	client   netip.Prefix
}

// clientBits6 is the prefix length that identifies an IPv6 client: a host usually
// has a whole /64.
const clientBits6 = 64

// SourceOf returns the source of a query. workload is "" if it is not known.
func SourceOf(workload string, client netip.Addr) Source {
	if workload != "" {
		return Source{workload: workload}
	}
	client = client.Unmap().WithZone("")
	bits := client.BitLen()
	if client.Is6() {
		bits = clientBits6
	}
	p, _ := client.Prefix(bits) // bits is always valid here
	return Source{client: p}
}

// String returns the workload or the client's prefix, for logs.
func (s Source) String() string {
	if s.workload != "" {
		return s.workload
	}
	return s.client.String()
}
