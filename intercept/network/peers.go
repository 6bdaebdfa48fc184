// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxPeers limits the network namespaces behind one link that are examined.
const maxPeers = 256

// enclosures finds out which network namespaces have no way out of this machine. It
// is valid for one listing of links.
type enclosures struct {
	network *Network
	host    map[int]netlink.Link // links of the host by index
	known   map[int]bool         // results by the kernel's ID of the namespace
}

// isEnclosed reports whether the other end of a veth is in a network namespace from which
// packets reach only other namespaces of this machine. It returns false if that is unknown.
func (e *enclosures) isEnclosed(l netlink.Link) bool {
	id := l.Attrs().NetNsID
	if l.Type() != "veth" || id < 0 {
		return false
	}
	if is, ok := e.known[id]; ok {
		return is
	}
	e.known[id] = e.examine(id)
	return e.known[id]
}

// examine follows the veths of a namespace to others, and looks for a link of a kind that may
// lead out of the machine.
func (e *enclosures) examine(first int) bool {
	ids, seen := []int{first}, map[int]bool{first: true}
	for i := 0; i < len(ids); i++ {
		links, err := e.network.linksOf(ids[i])
		if err != nil || i == maxPeers {
			return false
		}
		for _, l := range links {
			if leadsOut(l) {
				return false
			}
			if id := l.Attrs().NetNsID; l.Type() == "veth" && id >= 0 && !seen[id] && !e.leadsBack(l, ids[i]) {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return true
}

// leadsBack reports whether a veth in the namespace with this ID has its other end on the
// host.
func (e *enclosures) leadsBack(l netlink.Link, id int) bool {
	other := e.host[l.Attrs().ParentIndex]
	return other != nil && other.Type() == "veth" && other.Attrs().NetNsID == id && other.Attrs().ParentIndex == l.Attrs().Index
}

// leadsOut reports whether a link may lead out of the machine other than by the links of a
// namespace that are examined, too: a network card and everything unknown. Tunnels count,
// because their other end may be anywhere, but not the unused ones that every new namespace
// has (tunl0, sit0), which are down.
func leadsOut(l netlink.Link) bool {
	switch l.Type() {
	case "veth", "bridge", "dummy", "ifb":
		return false
	case "device": // no kind: hardware, or the loopback interface
		return l.Attrs().Flags&net.FlagLoopback == 0
	}
	return l.Attrs().Flags&net.FlagUp != 0
}

// linksOf lists the links of the namespace to which the kernel gave this ID in the host's
// namespace. It does not enter the namespace.
func (n *Network) linksOf(id int) ([]netlink.Link, error) {
	var out []netlink.Link
	err := n.home.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(id))))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			l, err := netlink.LinkDeserialize(nil, m)
			if err != nil {
				return err
			}
			out = append(out, l)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list links of network namespace %d: %w", id, err)
	}
	return out, nil
}
