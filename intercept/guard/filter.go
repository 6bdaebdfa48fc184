// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// filterPriority is the highest priority. Among filters with the same priority and protocol
// the one added last runs first (cls_bpf).
const filterPriority = 1

// filterHandle returns the handle of an instance's filters. It differs between instances.
func filterHandle(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte("sotto guard " + name)) // never fails
	return h.Sum32() | 1
}

// filterNames is the prefix of the filters' names, as tc(8) shows them. Name and handle
// identify a filter.
const filterNames = "sotto_guard_"

func parentOf(ingress bool) uint32 {
	if ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// attachFilter is attach with a filter of clsact.
func (l *attachments) attachFilter(a attachment, prog *ebpf.Program, ingress bool) error {
	if l.have[a] == asFilter {
		own, first, err := l.findFilter(a, ingress)
		if first || err != nil {
			return err
		}
		for _, f := range own {
			// Another program's filter runs before it, and could let packets through.
			if err := l.host.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("attach the guard (%s): %w", a.which, err)
			}
		}
	}
	if err := l.addClsact(a.index, ingress); err != nil {
		return fmt.Errorf("attach the guard (%s): %w", a.which, err)
	}
	err := l.host.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: a.index, Parent: parentOf(ingress), Handle: filterHandle(l.name),
			Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: prog.FD(), Name: filterNames + a.which, DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("attach the guard (%s): %w", a.which, err)
	}
	l.have[a] = asFilter
	return nil
}

// errNoEgress is the error for an interface with the queueing discipline ingress. It has the
// handle of clsact, but filters in one direction only: the kernel adds one for egress to ingress
// (net/sched/sch_ingress.c, ingress_tcf_block).
var errNoEgress = errors.New("the interface has the queueing discipline \"ingress\", which has no filters on egress: " +
	"replace it with \"clsact\", which has both, or use Linux 6.6 or newer")

// addClsact adds clsact to an interface, unless it has a queueing discipline with filters in this
// direction.
func (l *attachments) addClsact(index int, ingress bool) error {
	err := l.host.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err == nil || errors.Is(err, unix.EEXIST) && ingress {
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	q, err := filterQdisc(l.host, index)
	if err != nil {
		return err
	}
	if q != nil && q.Type() == "ingress" {
		return errNoEgress
	}
	return nil
}

// filterQdisc returns an interface's queueing discipline for filters, clsact or ingress, or nil.
func filterQdisc(h *netlink.Handle, index int) (netlink.Qdisc, error) {
	all, err := h.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}})
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, q := range all {
		if q.Type() == "clsact" || q.Type() == "ingress" {
			return q, nil
		}
	}
	return nil, nil
}

// findFilter returns the instance's filters, and whether they run first. A filter of another
// instance may run before them: it passes on what it does not stop.
func (l *attachments) findFilter(a attachment, ingress bool) (own []netlink.Filter, first bool, err error) {
	all, err := filtersOn(l.host, a.index, ingress)
	for i, f := range all {
		if isFilterOf(f, l.name) {
			first = !slices.ContainsFunc(all[:i], func(f netlink.Filter) bool { return !isGuardFilter(f) })
			own = append(own, f)
		}
	}
	return own, first, err
}

// filtersOn returns the filters in one direction of an interface, in the order in which they
// run.
func filtersOn(h *netlink.Handle, index int, ingress bool) ([]netlink.Filter, error) {
	iface := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	all, err := h.FilterList(iface, parentOf(ingress))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // no clsact, or no such interface
	}
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	for _, f := range all { // FilterDel needs these
		f.Attrs().Parent, f.Attrs().LinkIndex = parentOf(ingress), index
	}
	return all, nil
}

func isGuardFilter(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && strings.HasPrefix(b.Name, filterNames)
}

func isFilterOf(f netlink.Filter, name string) bool {
	return isGuardFilter(f) && f.Attrs().Handle == filterHandle(name)
}

// ClearFilters removes an instance's filters from all interfaces in the network namespace of
// the calling thread.
func ClearFilters(name string) error {
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
	return clearFilters(h, name)
}

// clearFilters removes an instance's filters from all interfaces, and clsact where it has no
// other filters.
func clearFilters(h *netlink.Handle, name string) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, clearFiltersOn(h, l.Attrs().Index, name))
	}
	return errors.Join(errs...)
}

func clearFiltersOn(h *netlink.Handle, index int, name string) error {
	qdisc, err := filterQdisc(h, index)
	if qdisc == nil || err != nil {
		return err
	}
	isClsact := qdisc.Type() == "clsact"
	directions := []bool{true, false}
	if !isClsact {
		directions = directions[:1] // the other one has the same filters
	}
	removed, left := 0, 0
	for _, ingress := range directions {
		all, err := filtersOn(h, index, ingress)
		if err != nil {
			return err
		}
		for _, f := range all {
			if !isFilterOf(f, name) {
				left++
				continue
			}
			if err := h.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("remove the guard from interface %d: %w", index, err)
			}
			removed++
		}
	}
	if removed == 0 || left > 0 || !isClsact {
		return nil
	}
	if err := h.QdiscDel(qdisc); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove clsact from interface %d: %w", index, err)
	}
	return nil
}
