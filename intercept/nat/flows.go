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

// maxFlows limits the number of tracked connections that are searched: a search reads all of
// them, about 250 bytes each.
const maxFlows = 100_000

// translated matches connections to virtual addresses that a nat rule of another program has
// translated.
type translated struct{ prefix netip.Prefix }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (m translated) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	dst, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok || !m.prefix.Contains(dst.Unmap()) {
		return false
	}
	return !flow.Reverse.SrcIP.Equal(flow.Forward.DstIP) || flow.Reverse.SrcPort != flow.Forward.DstPort
}

// forgetTranslated deletes the tracked connections that were translated before the table
// existed, in the calling thread's namespace. If a client still uses such a connection, the
// kernel tracks it again without the translation, and the client is answered.
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
		return 0, fmt.Errorf("forget translated connections: %d connections are tracked, and at most %d are searched", count, maxFlows)
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
