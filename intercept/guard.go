// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/bpf"
)

// GuardMode is what becomes of a plain query that leaves past the hooks: by a raw or
// a packet socket, by one that was connected before the seal, or, where the host is
// guarded, forwarded for somebody.
type GuardMode int

const (
	GuardDrop  GuardMode = iota // it is dropped, and counted
	GuardCount                  // it is counted, and leaves

	// GuardOff: nobody looks. Sockets that are bound to an interface are refused then,
	// for nothing would lead their queries to the listener.
	GuardOff
)

// DROP_* in bpf/settings.h.
const (
	dropPlain   = 1
	dropUnheld  = 2
	dropVirtual = 4
)

const (
	// aliveEvery is the pause between two signs of life.
	aliveEvery = 500 * time.Millisecond

	// reportEvery bounds what a flood of such packets can write into the log.
	reportEvery = time.Minute

	// leastOpenAfter is the shortest silence that counts as death: several signs of
	// life, on a machine that is busy.
	leastOpenAfter = 2 * time.Second
)

// guard keeps the guard's programs on the host's interfaces, and tells them and the
// hooks what they need to know of this process. Its methods may be called
// concurrently.
type guard struct {
	mode  GuardMode
	log   *slog.Logger
	k     *kernel
	net   *network
	links linkHooks

	mu       sync.Mutex
	state    bpf.SottoGuard
	attached bool
	failed   string // the last failure, logged once
}

// newGuard prepares; nothing changes but the maps, which nobody reads yet unless an
// earlier process left its hooks.
func newGuard(cfg *Config, k *kernel, n *network, groups []group, root string) (*guard, error) {
	g := &guard{
		mode: cfg.Guard, log: cfg.Log, k: k, net: n,
		links: linkHooks{dir: k.dir, name: cfg.Name, host: n.host, quick: cfg.Ephemeral},
	}
	want := make(map[uint64]bool)
	for _, sealed := range groups {
		level, err := sealed.level(root)
		if err != nil {
			return nil, err
		}
		if level >= maxLevel {
			return nil, fmt.Errorf("seal cgroup %s: more than %d levels deep", sealed.Path, maxLevel)
		}
		want[sealed.ID] = true
		g.state.SealLevels |= 1 << level
		if err := k.Sealed.Put(sealed.ID, uint32(level)); err != nil {
			return nil, fmt.Errorf("tell the guard of cgroup %s: %w", sealed.Path, err)
		}
	}
	// Those that an earlier process sealed besides.
	var id uint64
	var level uint32
	var others []uint64
	it := k.Sealed.Iterate()
	for it.Next(&id, &level) {
		if !want[id] {
			others = append(others, id)
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list sealed cgroups: %w", err)
	}
	for _, id := range others {
		if err := k.Sealed.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("forget sealed cgroup %d: %w", id, err)
		}
	}
	return g, nil
}

// attach guards the interfaces that are there. One that cannot be guarded is an
// error here, and a warning later.
func (g *guard) attach() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mode == GuardDrop {
		g.state.Drop = dropPlain | dropUnheld
	}
	g.attached = true
	if err := g.tell(); err != nil {
		return err
	}
	if g.mode == GuardOff {
		return g.links.clear() // of an earlier process
	}
	if err := g.sync(); err != nil {
		return fmt.Errorf("guard the interfaces: %w", err)
	}
	return nil
}

// disarm stops queries in the clear no more. Packets for virtual addresses are redirected
// and checked as before.
func (g *guard) disarm() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Drop &^= dropPlain
	return g.tell()
}

// shut has nothing be sent to a virtual address any more: the instance has stopped.
func (g *guard) shut() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Drop = dropVirtual
	return g.tell()
}

// detach takes the programs off the interfaces.
func (g *guard) detach() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attached = false
	return g.links.clear()
}

// tell writes the state. g.mu is held.
func (g *guard) tell() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil { // bpf_ktime_get_ns
		return fmt.Errorf("read the clock: %w", err)
	}
	g.state.Alive = uint64(now.Nano())
	if err := g.k.Daemon.Put(uint32(0), g.state); err != nil {
		return fmt.Errorf("tell the BPF programs: %w", err)
	}
	return nil
}

// run gives signs of life until ctx ends, and tells what was stopped.
func (g *guard) run(ctx context.Context) error {
	tick, report := time.NewTicker(aliveEvery), time.NewTicker(reportEvery)
	defer tick.Stop()
	defer report.Stop()
	last, err := g.k.counters()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-report.C:
			last = g.report(last)
			continue
		case <-tick.C:
		}
		g.mu.Lock()
		if g.attached {
			g.warn(g.tell())
		}
		g.mu.Unlock()
	}
}

// report logs what moved since last, and returns what is now.
func (g *guard) report(last map[string]uint64) map[string]uint64 {
	now, err := g.k.counters()
	if err != nil {
		g.log.Warn("cannot read the counters", "err", err)
		return last
	}
	for _, c := range notable {
		n := now[c.name] - last[c.name]
		switch {
		case n == 0:
		case c.name == "open":
			g.log.Warn("let through: "+c.means, "counter", c.name, "count", n)
		case g.mode != GuardDrop && strings.HasPrefix(c.name, "stopped_"):
			g.log.Warn("left in the clear: "+c.means, "counter", c.name, "count", n)
		default:
			g.log.Warn("dropped: "+c.means, "counter", c.name, "count", n)
		}
	}
	return now
}

// follow guards interfaces that came, and forgets those that went.
func (g *guard) follow() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.attached && g.mode != GuardOff {
		g.warn(g.sync())
	}
}

// warn tells of a failure when it is another than the last. g.mu is held.
func (g *guard) warn(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != g.failed {
		g.log.Warn("cannot guard every interface; what the hooks do not catch may leave there", "err", err)
	}
	g.failed = text
}

// sync brings programs and maps in line with the interfaces. g.mu is held.
func (g *guard) sync() error {
	links, err := g.net.hostLinks()
	if err != nil {
		return err
	}
	return g.net.home.Do(func() error { return g.syncLinks(links) })
}

// syncLinks runs on a thread in the host's namespace.
func (g *guard) syncLinks(links []hostLink) error {
	flags, err := linkFlags(links)
	if err != nil {
		return err
	}
	var errs []error
	veth := uint32(0)
	for _, l := range links {
		if l.veth {
			veth = uint32(l.index)
			errs = append(errs, g.links.hook(l.index, "back", g.k.SottoGuardBack, true))
			continue
		}
		// The flags first: until they are known an interface leads off the machine.
		if err := g.k.Links.Put(uint32(l.index), flags[l.index]); err != nil {
			errs = append(errs, fmt.Errorf("tell the guard of link %s: %w", l.name, err))
			continue
		}
		out, in := g.k.SottoGuardOutIp, g.k.SottoGuardInIp
		if l.framed {
			out, in = g.k.SottoGuardOutFrame, g.k.SottoGuardInFrame
		}
		err := errors.Join(g.links.hook(l.index, "out", out, false), g.links.hook(l.index, "in", in, true))
		if err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", l.name, err))
		}
	}
	errs = append(errs, g.forget(links))
	if veth != g.state.Veth {
		g.state.Veth = veth
		errs = append(errs, g.tell())
	}
	return errors.Join(errs...)
}

// forget drops what is known of interfaces that are gone: their numbers are given to
// no others before they wrap around, but the map is not endless.
func (g *guard) forget(links []hostLink) error {
	there := make(map[int]bool, len(links))
	for _, l := range links {
		there[l.index] = true
	}
	var gone []uint32
	var index, flags uint32
	it := g.k.Links.Iterate()
	for it.Next(&index, &flags) {
		if !there[int(index)] {
			gone = append(gone, index)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list guarded links: %w", err)
	}
	var errs []error
	for _, index := range gone {
		if err := g.k.Links.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget link %d: %w", index, err))
		}
	}
	return errors.Join(append(errs, g.links.forget(there))...)
}
