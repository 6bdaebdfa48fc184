// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"sotto/intercept/pins"
)

// attachments attaches programs to interfaces: as tcx links, or as filters where the kernel
// has no tcx. In both forms they run before the programs of others, and pass on to those
// what they do not stop.
type attachments struct {
	dir  string // of the pins
	name string // of the instance
	host *netlink.Handle

	// have are the attachments that this process made or adopted. The kernel removes a tcx
	// link only with its interface; a filter that another program removed is detected.
	have          map[attachment]kind
	noTCX         bool // the kernel has no tcx
	preferFilters bool // see Config.Filters
}

// kind is how a program is attached.
type kind int

const (
	asLink kind = iota + 1
	asFilter
)

// attachment identifies a program on an interface.
type attachment struct {
	index int    // of the interface
	which string // "out", "in", "back" or "answer"
}

const tcxPrefix = "tcx_"

func (l *attachments) pin(a attachment) string {
	return filepath.Join(l.dir, tcxPrefix+a.which+"_"+strconv.Itoa(a.index))
}

// attach attaches a program to an interface, or replaces that of an earlier process. It is
// idempotent. The calling thread is in the host's namespace, because interface indices are
// those of its namespace.
func (l *attachments) attach(a attachment, prog *ebpf.Program, ingress bool) error {
	if l.have == nil {
		l.have = make(map[attachment]kind)
	}
	if l.have[a] == asLink {
		return nil
	}
	if l.noTCX || l.preferFilters && !othersHaveLinks(a.index, ingress) {
		err := l.attachFilter(a, prog, ingress)
		if l.noTCX || !errors.Is(err, errNoEgress) {
			return err
		}
	}
	if pins.Replace(l.pin(a), prog) != nil {
		err := l.attachLink(a, prog, ingress)
		if errors.Is(err, ebpf.ErrNotSupported) {
			l.noTCX = true
			return l.attachFilter(a, prog, ingress)
		}
		if err != nil {
			return fmt.Errorf("attach the guard (%s): %w", a.which, err)
		}
	}
	l.have[a] = asLink
	return nil
}

// attachOrRemove is attach, or without a program it removes that of an earlier process.
func (l *attachments) attachOrRemove(a attachment, prog *ebpf.Program, ingress bool) error {
	if prog != nil {
		return l.attach(a, prog, ingress)
	}
	errs := []error{removePin(l.pin(a))}
	all, err := filtersOn(l.host, a.index, ingress)
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && isFilterOf(f, l.name) && b.Name == filterNames+a.which {
			errs = append(errs, l.host.FilterDel(f))
		}
	}
	return errors.Join(append(errs, err)...)
}

func attachType(ingress bool) ebpf.AttachType {
	if ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// othersHaveLinks reports whether a program other than Sotto's is attached to an interface
// as a tcx link. It could let packets through that a filter after it would stop. If the
// kernel does not support the query, it has no tcx.
func othersHaveLinks(index int, ingress bool) bool {
	found, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: attachType(ingress)})
	return err == nil && slices.ContainsFunc(found.Programs, func(p link.AttachedProgram) bool { return !isGuardProgram(p.ID) })
}

func isGuardProgram(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) // it was just removed
	}
	defer p.Close()
	info, err := p.Info()
	return err == nil && strings.HasPrefix(info.Name, filterNames[:len(filterNames)-1])
}

func (l *attachments) attachLink(a attachment, prog *ebpf.Program, ingress bool) error {
	// A pin that could not be updated is that of a removed interface.
	if err := os.Remove(l.pin(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tcx, err := link.AttachTCX(link.TCXOptions{Interface: a.index, Program: prog, Attach: attachType(ingress), Anchor: link.Head()})
	if err != nil {
		return err
	}
	return errors.Join(tcx.Pin(l.pin(a)), tcx.Close())
}

// forgetOthers removes the pins of interfaces that do not exist.
func (l *attachments) forgetOthers(exists map[int]bool) error {
	var errs []error
	for a := range l.have {
		if !exists[a.index] {
			delete(l.have, a)
		}
	}
	all, err := listPins(l.dir)
	for _, pin := range all {
		index, err := strconv.Atoi(pin[strings.LastIndexByte(pin, '_')+1:])
		if err == nil && !exists[index] {
			errs = append(errs, removePin(pin))
		}
	}
	return errors.Join(append(errs, err)...)
}

// clear removes the instance's programs from all interfaces.
func (l *attachments) clear() error {
	clear(l.have)
	return errors.Join(RemovePins(l.dir), clearFilters(l.host, l.name))
}

func listPins(dir string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(dir, tcxPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("list guarded interfaces: %w", err)
	}
	return all, nil
}

// RemovePins removes the tcx links that are pinned in dir.
func RemovePins(dir string) error {
	all, err := listPins(dir)
	errs := []error{err}
	for _, pin := range all {
		errs = append(errs, removePin(pin))
	}
	return errors.Join(errs...)
}

// removePin removes a pin. The kernel then detaches the program asynchronously. Detaching it
// at once would take an RCU grace period per link, tens of milliseconds, and the program
// does not stop anything any more.
func removePin(pin string) error {
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the guard from an interface: %w", err)
	}
	return nil
}
