// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkHooks puts the guard's programs on interfaces: as links (tcx, Linux 6.6), which
// are pinned, or where there are none as filters of a clsact queueing discipline, which
// stay by themselves. Either way they run before what others have there, and hand on
// to it what they do not stop. A link costs a grace period of the kernel's, some twenty
// milliseconds; who seals one command takes filters, but where somebody has links, which
// run before every filter.
type linkHooks struct {
	dir  string // of the pins
	name string // of the instance
	host *netlink.Handle

	// have are the hooks that this process made or took over. A link of the kernel's
	// goes with its interface; a filter that somebody else removes is found missing.
	have    map[linkHook]hookKind
	classic bool // there is no tcx
	quick   bool // filters will do where nobody else has links
}

type hookKind int

const (
	asLink hookKind = iota + 1
	asFilter
)

type linkHook struct {
	index int
	which string // "out", "in" or "back"
}

const tcxPrefix = "tcx_"

func (l *linkHooks) pin(h linkHook) string {
	return filepath.Join(l.dir, tcxPrefix+h.which+"_"+strconv.Itoa(h.index))
}

// hook puts a program on an interface, or in the place of an earlier process's. It is
// idempotent. It is called on a thread in the host's namespace, as the numbers of
// interfaces are of the calling thread's.
func (l *linkHooks) hook(index int, which string, prog *ebpf.Program, ingress bool) error {
	h := linkHook{index, which}
	if l.have == nil {
		l.have = make(map[linkHook]hookKind)
	}
	if l.have[h] == asLink {
		return nil
	}
	if l.classic || l.quick && !othersLinked(index, ingress) {
		return l.filter(h, prog, ingress)
	}
	if replaceProgram(l.pin(h), prog) != nil {
		err := l.attach(h, prog, ingress)
		if errors.Is(err, ebpf.ErrNotSupported) {
			l.classic = true
			return l.filter(h, prog, ingress)
		}
		if err != nil {
			return fmt.Errorf("guard it (%s): %w", which, err)
		}
	}
	l.have[h] = asLink
	return nil
}

func attachType(ingress bool) ebpf.AttachType {
	if ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// othersLinked tells whether anybody but Sotto has links on an interface, which might
// let through what a filter behind them would stop. Where the kernel cannot tell, it
// has none.
func othersLinked(index int, ingress bool) bool {
	found, err := bpflink.QueryPrograms(bpflink.QueryOptions{Target: index, Attach: attachType(ingress)})
	return err == nil && slices.ContainsFunc(found.Programs, func(p bpflink.AttachedProgram) bool { return !isGuardProgram(p.ID) })
}

func isGuardProgram(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) // it just went
	}
	defer p.Close()
	info, err := p.Info()
	return err == nil && strings.HasPrefix(info.Name, filterNames[:len(filterNames)-1])
}

func (l *linkHooks) attach(h linkHook, prog *ebpf.Program, ingress bool) error {
	// A pin that could not be updated is of an interface that is gone.
	if err := os.Remove(l.pin(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	link, err := bpflink.AttachTCX(bpflink.TCXOptions{Interface: h.index, Program: prog, Attach: attachType(ingress), Anchor: bpflink.Head()})
	if err != nil {
		return err
	}
	return errors.Join(link.Pin(l.pin(h)), link.Close())
}

// lose has every hook be looked at anew: another process may have put its own programs
// there.
func (l *linkHooks) lose() { clear(l.have) }

// forget takes away the pins of interfaces that are gone.
func (l *linkHooks) forget(there map[int]bool) error {
	var errs []error
	for h := range l.have {
		if !there[h.index] {
			delete(l.have, h)
		}
	}
	pins, err := tcxPins(l.dir)
	for _, pin := range pins {
		index, err := strconv.Atoi(pin[strings.LastIndexByte(pin, '_')+1:])
		if err == nil && !there[index] {
			errs = append(errs, removeTCX(pin))
		}
	}
	return errors.Join(append(errs, err)...)
}

// clear takes the instance's programs off all interfaces.
func (l *linkHooks) clear() error {
	clear(l.have)
	return errors.Join(clearTCX(l.dir), clearFilters(l.host, l.name))
}

func tcxPins(dir string) ([]string, error) {
	pins, err := filepath.Glob(filepath.Join(dir, tcxPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list guarded interfaces: %w", err)
	}
	return pins, nil
}

func clearTCX(dir string) error {
	pins, err := tcxPins(dir)
	errs := []error{err}
	for _, pin := range pins {
		errs = append(errs, removeTCX(pin))
	}
	return errors.Join(errs...)
}

// removeTCX takes a program off its interface: a moment later, when nobody holds its
// link any more. To do it at once would take a grace period of the kernel's for each,
// tens of milliseconds, and by now the program stops nothing.
func removeTCX(pin string) error {
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take the guard off an interface: %w", err)
	}
	return nil
}

// filterPriority is the first one. Of filters with the same priority and protocol the
// one that was added last runs first (cls_bpf).
const filterPriority = 1

// filterHandle tells the filters of one instance from those of another and of others.
func filterHandle(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte("sotto guard " + name)) // never fails
	return h.Sum32() | 1
}

// filterNames are what tc(8) shows; with the handle they tell whose a filter is.
const filterNames = "sotto_guard_"

func parentOf(ingress bool) uint32 {
	if ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// filter is hook for kernels without tcx.
func (l *linkHooks) filter(h linkHook, prog *ebpf.Program, ingress bool) error {
	if l.have[h] == asFilter {
		mine, first, err := l.findFilter(h, ingress)
		if first || err != nil {
			return err
		}
		for _, f := range mine {
			// Somebody else's came before it, and may let through what it would stop.
			if err := l.host.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("guard it (%s): %w", h.which, err)
			}
		}
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: h.index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := l.host.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("guard it (%s): add clsact: %w", h.which, err)
	}
	err := l.host.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: h.index, Parent: parentOf(ingress), Handle: filterHandle(l.name),
			Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: prog.FD(), Name: filterNames + h.which, DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("guard it (%s): %w", h.which, err)
	}
	l.have[h] = asFilter
	return nil
}

// findFilter returns the instance's filter, and whether it is the first to run. A
// filter of another instance before it hands on what it does not stop.
func (l *linkHooks) findFilter(h linkHook, ingress bool) (mine []netlink.Filter, first bool, err error) {
	all, err := filtersOn(l.host, h.index, ingress)
	for i, f := range all {
		if isFilterOf(f, l.name) {
			first = !slices.ContainsFunc(all[:i], func(f netlink.Filter) bool { return !isGuard(f) })
			mine = append(mine, f)
		}
	}
	return mine, first, err
}

// filtersOn returns the filters in one direction of an interface, as they run.
func filtersOn(h *netlink.Handle, index int, ingress bool) ([]netlink.Filter, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	all, err := h.FilterList(link, parentOf(ingress))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // no such discipline, or interface
	}
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	for _, f := range all { // what deleting one needs
		f.Attrs().Parent, f.Attrs().LinkIndex = parentOf(ingress), index
	}
	return all, nil
}

func isGuard(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && strings.HasPrefix(b.Name, filterNames)
}

func isFilterOf(f netlink.Filter, name string) bool {
	return isGuard(f) && f.Attrs().Handle == filterHandle(name)
}

// clearFilters takes an instance's filters off all interfaces, and the discipline with
// them where nobody else has a filter in it.
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
	qdiscs, err := h.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}})
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	var clsact netlink.Qdisc
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			clsact = q
		}
	}
	if clsact == nil {
		return nil
	}
	removed, left := 0, 0
	for _, ingress := range []bool{false, true} {
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
				return fmt.Errorf("take the guard off interface %d: %w", index, err)
			}
			removed++
		}
	}
	if removed == 0 || left > 0 {
		return nil
	}
	if err := h.QdiscDel(clsact); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove clsact from interface %d: %w", index, err)
	}
	return nil
}
