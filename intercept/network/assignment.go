// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"sotto/internal/netns"
)

// MaxAssignments is the number of assignments: of /22 networks in the lower half of the
// IPv4 block.
const MaxAssignments = 64

// Assignment is a name with prefixes of its own, for an instance that runs beside others.
type Assignment struct {
	Name, Link       string
	Prefix4, Prefix6 netip.Prefix
}

// NthAssignment returns assignment n, starting at 0. Its link base ends in a number, so its
// interfaces (sottoN0, sottoN1) differ from those of the instance "sotto" (sotto0, sotto1).
func NthAssignment(n int) Assignment {
	sixteen := block6.Addr().As16()
	sixteen[6], sixteen[7] = byte((n+1)>>8), byte(n+1)
	return Assignment{
		Name:    "sotto-" + strconv.Itoa(n),
		Link:    "sotto" + strconv.Itoa(n),
		Prefix4: netip.PrefixFrom(NthAddr(block4, uint32(n)<<10), 22),
		Prefix6: netip.PrefixFrom(netip.AddrFrom16(sixteen), 64),
	}
}

// PickAssignment returns the first assignment whose name is not taken and whose prefixes do
// not conflict with routes in the network namespace of the calling thread. The caller holds
// a lock that all instances pick under, until its choice is visible to taken.
func PickAssignment(taken func(name string) bool) (Assignment, error) {
	home, err := netns.Current()
	if err != nil {
		return Assignment{}, err
	}
	defer home.Close()
	h, err := home.Netlink()
	if err != nil {
		return Assignment{}, err
	}
	defer h.Close()

	routes4, _, err := listRoutes(h, block4, -1)
	if err != nil {
		return Assignment{}, err
	}
	var routes6 []hostRoute
	if hasIPv6() {
		if routes6, _, err = listRoutes(h, block6, -1); err != nil {
			return Assignment{}, err
		}
	}
	var last error
	for i := range MaxAssignments {
		a := NthAssignment(i)
		if taken(a.Name) {
			continue
		}
		if r, found := conflict(a.Prefix4, routes4); found {
			last = &ConflictError{"prefix4", a.Prefix4, r.text}
		} else if r, found := conflict(a.Prefix6, routes6); found {
			last = &ConflictError{"prefix6", a.Prefix6, r.text}
		} else {
			return a, nil
		}
	}
	if last == nil {
		last = errors.New("stop some of them")
	}
	return Assignment{}, fmt.Errorf("pick a network for one more instance: all %d are in use: %w", MaxAssignments, last)
}
