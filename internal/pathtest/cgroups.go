// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/filters"
)

const (
	// tempPrefix starts the names of the cgroups that the test creates.
	tempPrefix = "sotto-path-test-"

	// maxCgroups limits the cgroups that are tested, and maxSearched those that are searched
	// for filters.
	maxCgroups  = 32
	maxSearched = 10_000
)

// IsProbe reports whether a workload, by its cgroup path, is the test itself.
func IsProbe(workload string) bool {
	return strings.HasPrefix(workload[strings.LastIndexByte(workload, '/')+1:], tempPrefix)
}

// inside runs fn while the process is in a new cgroup below dir. Moving the process into dir
// itself fails if controllers are enabled for the cgroups below it. own is the cgroup of the
// process.
func inside(dir, own string, fn func() error) (err error) {
	removeLeftovers(dir)
	if isFrozen(dir) {
		return errors.New("it is frozen")
	}
	temp, err := cgroup.Create(dir, fmt.Sprint(tempPrefix, os.Getpid()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temp.Close()) }()
	if err := moveTo(temp.Path()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, moveTo(own)) }()
	return fn()
}

// isFrozen reports whether the processes in the cgroup do not run (cgroup.freeze).
func isFrozen(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.events")) // the root has none
	return err == nil && strings.Contains(string(text), "frozen 1")
}

// moveTo moves the calling process.
func moveTo(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("0") // the process that writes
	return errors.Join(err, f.Close())
}

// removeLeftovers removes the cgroups of tests that were killed. Those of running tests are
// busy.
func removeLeftovers(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	for _, l := range left {
		_ = unix.Rmdir(l)
	}
}

// restricted returns the cgroups below the sealed ones for which a unit's settings drop packets
// to virtual addresses, and not all others: a unit without access to any nameserver is none of
// them.
func restricted(cfg Config, root string) (dirs []string, err error) {
	t := newTargets(cfg)
	searched := 0
	for _, sealed := range cfg.Cgroups {
		below, err := cgroup.Below(sealed)
		if err != nil {
			return dirs, err
		}
		for _, dir := range below[min(1, len(below)):] { // the first one is sealed itself
			if searched++; searched > maxSearched {
				return dirs, fmt.Errorf("searched only %d cgroups", maxSearched)
			}
			if !cgroup.IsWithin(root, strings.TrimPrefix(dir, root), cfg.Exclude) && t.restricts(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs, nil
}

// targets are the packets with which filters are examined.
type targets struct {
	virtual    []netip.Addr // one address of each prefix
	others     []netip.Addr // nameservers
	link       int          // index of Sotto's interface
	otherLinks []int        // except lo
	port       uint16
}

// wellKnown are nameservers that a unit may be allowed to query.
var wellKnown = []netip.Addr{
	destination4, destination6, netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("1.1.1.1"),
	netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2001:4860:4860::8888"),
}

func newTargets(cfg Config) targets {
	t := targets{port: cfg.Port, others: wellKnown}
	for _, p := range cfg.Prefixes {
		t.virtual = append(t.virtual, p.Masked().Addr().Next())
	}
	text, _ := os.ReadFile("/etc/resolv.conf") // without it, others has well-known ones
	t.others = append(nameservers(string(text)), t.others...)
	links, _ := net.Interfaces()
	for _, l := range links {
		switch {
		case l.Name == cfg.Link:
			t.link = l.Index
		case l.Flags&net.FlagLoopback == 0:
			t.otherLinks = append(t.otherLinks, l.Index)
		}
	}
	return t
}

// nameservers returns those of a resolv.conf that are not on loopback.
func nameservers(text string) (out []netip.Addr) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && !a.IsLoopback() {
			out = append(out, a.WithZone(""))
		}
	}
	return out
}

// restricts reports whether a filter of the cgroup dir drops packets to virtual addresses and
// lets others pass. Filters that cannot be read or run count as ones that do not.
func (t targets) restricts(dir string) bool {
	programs, _ := filters.Programs(dir)
	for _, p := range programs {
		switch p.Setting {
		case filters.IPAddress:
			for _, v := range t.virtual {
				if t.drops(p, v, t.link) == yes && t.passesAny(p, t.others, []int{t.link}) {
					return true
				}
			}
		case filters.Interfaces:
			if len(t.virtual) > 0 && t.drops(p, t.virtual[0], t.link) == yes && t.passesAny(p, t.virtual[:1], t.otherLinks) {
				return true
			}
		}
	}
	return false
}

func (t targets) passesAny(p filters.Program, addrs []netip.Addr, links []int) bool {
	for _, a := range addrs {
		for _, l := range links {
			if t.drops(p, a, l) == no {
				return true
			}
		}
	}
	return false
}

// verdict is whether a program drops a packet.
type verdict uint8

const (
	unknown verdict = iota
	yes
	no
)

// drops runs a program of systemd with a packet to a nameserver at addr, or for an ingress
// program with one from it.
func (t targets) drops(p filters.Program, addr netip.Addr, link int) verdict {
	client := destination4 // any address
	if addr.Is6() {
		client = destination6
	}
	src, dst := netip.AddrPortFrom(client, 1024), netip.AddrPortFrom(addr, t.port)
	if !p.Egress {
		src, dst = dst, src
	}
	dropped, err := p.Drops(filters.Datagram(src, dst), link)
	switch {
	case err != nil:
		return unknown
	case dropped:
		return yes
	}
	return no
}
