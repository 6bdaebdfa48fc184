// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxFlows is up to how many tracked connections are looked through: a look reads all of
// them, some 250 bytes each.
const maxFlows = 100_000

// translated matches the connections to virtual addresses that a nat rule of others
// has translated.
type translated struct{ prefix netip.Prefix }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (m translated) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	meant, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok || !m.prefix.Contains(meant.Unmap()) {
		return false
	}
	return !flow.Reverse.SrcIP.Equal(flow.Forward.DstIP) || flow.Reverse.SrcPort != flow.Forward.DstPort
}

// forgetTranslated has the kernel forget the connections that were translated before
// there was a table, in the calling thread's namespace. A client that goes on using one
// has it tracked anew, and is answered.
func forgetTranslated(p netip.Prefix) (uint, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return 0, fmt.Errorf("count tracked connections: %w", err)
	}
	count, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("count tracked connections: %w", err)
	}
	if count > maxFlows {
		return 0, fmt.Errorf("forget translated connections: %d connections are tracked, and no more than %d are looked through", count, maxFlows)
	}
	fam := netlink.InetFamily(unix.AF_INET6)
	if p.Addr().Is4() {
		fam = unix.AF_INET
	}
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, fam, translated{p})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return n, fmt.Errorf("forget translated connections: %w", err)
	}
	return n, nil
}
