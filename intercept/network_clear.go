// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// checkConflicts refuses prefixes that somebody else's route leads to, and
// removes routes that an earlier run left on this link for other prefixes.
func (n *network) checkConflicts() error {
	link, err := findLink(n.host, n.hostLink())
	if err != nil {
		return err
	}
	index := -1
	if link != nil {
		index = link.Attrs().Index
	}
	for _, p := range n.prefixes() {
		routes, old, err := otherRoutes(n.host, p, index)
		if err != nil {
			return err
		}
		setting := "prefix6"
		if p.Addr().Is4() {
			setting = "prefix4"
		}
		if r, found := conflict(p, routes); found {
			return conflictError(setting, p, r)
		}
		if err := removeRoutes(n.host, old...); err != nil {
			return err
		}
	}
	return nil
}

// otherRoutes lists the host's routes in the family of the prefix, from the
// tables main and local, without those that belong to the instance itself: the
// ones on its link (index) and the unreachable twin of its prefix. The prefixes
// that its link has besides are returned in old.
func otherRoutes(h *netlink.Handle, p netip.Prefix, index int) (routes []hostRoute, old []netip.Prefix, err error) {
	family := netlink.FAMILY_V6
	if p.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	all, err := h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, nil, fmt.Errorf("list routes: %w", err)
	}
	names := map[int]string{}
	for _, r := range all {
		dst := toPrefix(r.Dst, family)
		switch {
		case r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_LOCAL:
		case r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_MULTICAST || r.Type == unix.RTN_ANYCAST:
		case r.LinkIndex == index:
			if r.Protocol == routeProtocol && r.Table == unix.RT_TABLE_MAIN && dst != p {
				old = append(old, dst)
			}
		case r.Type == unix.RTN_UNREACHABLE && r.Protocol == routeProtocol && dst == p:
		case dst.Bits() == 0 || !p.Overlaps(dst):
		default:
			routes = append(routes, hostRoute{
				dst: dst, text: routeText(h, dst, r, names), mine: r.Protocol == routeProtocol,
			})
		}
	}
	return routes, old, nil
}

// routeText writes a route as ip-route(8) does, as far as it helps to find it.
func routeText(h *netlink.Handle, dst netip.Prefix, r netlink.Route, names map[int]string) string {
	var b strings.Builder
	if r.Type != unix.RTN_UNICAST {
		b.WriteString(map[int]string{
			unix.RTN_LOCAL: "local ", unix.RTN_UNREACHABLE: "unreachable ",
			unix.RTN_BLACKHOLE: "blackhole ", unix.RTN_PROHIBIT: "prohibit ",
		}[r.Type])
	}
	b.WriteString(dst.String())
	if len(r.Gw) > 0 {
		b.WriteString(" via " + r.Gw.String())
	}
	if r.LinkIndex > 0 {
		name, ok := names[r.LinkIndex]
		if !ok {
			name = strconv.Itoa(r.LinkIndex)
			if link, err := h.LinkByIndex(r.LinkIndex); err == nil {
				name = link.Attrs().Name
			}
			names[r.LinkIndex] = name
		}
		b.WriteString(" dev " + name)
	}
	return b.String()
}

// removeRoutes removes every route that Sotto made to exactly these prefixes,
// the twins last: deletion goes from the strongest metric to the weakest.
func removeRoutes(h *netlink.Handle, prefixes ...netip.Prefix) error {
	var errs []error
	for _, p := range prefixes {
		for range 8 { // two are there; more only after somebody's experiments
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

// pickInstance picks names and prefixes for one more instance in the namespace
// of the calling thread: the first number that taken does not know and whose
// prefixes no route of this host leads to. The caller holds the lock that all
// instances pick under, until its choice is visible to taken.
func pickInstance(taken func(name string) bool) (instance, error) {
	home, err := netns.Current()
	if err != nil {
		return instance{}, err
	}
	defer home.Close()
	h, err := home.Netlink()
	if err != nil {
		return instance{}, err
	}
	defer h.Close()

	routes4, _, err := otherRoutes(h, block4, -1)
	if err != nil {
		return instance{}, err
	}
	var routes6 []hostRoute
	if kernelHas6() {
		if routes6, _, err = otherRoutes(h, block6, -1); err != nil {
			return instance{}, err
		}
	}
	var last error
	for i := range maxInstances {
		in := nthInstance(i)
		if taken(in.name) {
			continue
		}
		if r, found := conflict(in.prefix4, routes4); found {
			last = conflictError("prefix4", in.prefix4, r)
		} else if r, found := conflict(in.prefix6, routes6); found {
			last = conflictError("prefix6", in.prefix6, r)
		} else {
			return in, nil
		}
	}
	if last == nil {
		last = errors.New("stop some of them")
	}
	return instance{}, fmt.Errorf("pick a network for one more instance, of %d all in use: %w", maxInstances, last)
}

// clearNetwork takes away what a dead instance left in the namespace of the
// calling thread: its links, its namespace's name, and the routes to the
// prefixes named and to those that its link still has. Nothing there is no
// error. The dead instance's hooks must be off before. unreachable is called while only the
// unreachable twins are left.
func clearNetwork(name, link string, unreachable func() error, prefixes ...netip.Prefix) error {
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
		for _, any := range []netip.Prefix{block4, block6} {
			_, left, err := otherRoutes(h, any, l.Attrs().Index)
			prefixes = append(prefixes, left...)
			errs = append(errs, err)
		}
	}
	errs = append(errs,
		clearFilters(h, name),
		removeLinks(h, link+"0", link+"1"), removeInside(name, link+"1"),
	)
	if unreachable != nil {
		errs = append(errs, unreachable())
	}
	errs = append(errs,
		removeRoutes(h, prefixes...), netns.Delete(name),
	)
	return errors.Join(errs...)
}

// removeInside removes an end of a link that is left in a namespace alone. A
// process that is still inside must not keep its peer alive.
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
