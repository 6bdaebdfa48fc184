// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// Clear removes what a dead instance left in the network namespace of the calling thread:
// its interfaces, the name of its namespace, and the routes to the given prefixes and to
// those that are still routed to its interface. It is not an error if nothing is left.
//
// The dead instance's hooks must be detached before. unreachable, if not nil, is called when
// only the unreachable routes are left.
func Clear(name, link string, unreachable func() error, prefixes ...netip.Prefix) error {
	home, err := netns.Current()
	if err != nil {
		return err
	}
	defer home.Close()
	h, err := home.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()

	var errs []error
	if l, err := findLink(h, link+"0"); err != nil {
		errs = append(errs, err)
	} else if l != nil {
		for _, block := range []netip.Prefix{block4, block6} {
			_, left, err := listRoutes(h, block, l.Attrs().Index)
			prefixes = append(prefixes, left...)
			errs = append(errs, err)
		}
	}
	errs = append(errs, removeLinks(h, link+"0", link+"1"), removeInside(name, link+"1"))
	if unreachable != nil {
		errs = append(errs, unreachable())
	}
	errs = append(errs, removeRoutes(h, prefixes...), netns.Delete(name))
	return errors.Join(errs...)
}

// removeInside removes the end of a veth pair that is left in a namespace. Otherwise a
// process that is still inside would keep the other end alive.
func removeInside(name, link string) error {
	ns, err := netns.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, netns.ErrNotNamespace) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return removeLinks(h, link)
}

// maxRoutes limits how many routes to one prefix removeRoutes removes. Sotto makes two.
const maxRoutes = 8

// removeRoutes removes the routes that Sotto made to exactly these prefixes, the unreachable
// ones last: the kernel deletes the route with the lowest metric first.
func removeRoutes(h *netlink.Handle, prefixes ...netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		for range maxRoutes {
			err := h.RouteDel(&netlink.Route{Dst: ipNet(p), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN})
			if errors.Is(err, unix.ESRCH) {
				break
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("remove route %s: %w", p, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}
