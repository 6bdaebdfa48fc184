// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/intercept/network"
)

// Mode is what the guard does with queries in the clear that the hooks did not redirect.
type Mode int

const (
	Drop  Mode = iota // drop and count them
	Count             // count them and let them through

	// Off attaches no guard. The hooks then refuse sockets that are bound to an interface,
	// because their queries could not be redirected to the listener.
	Off
)

// String returns the name of the mode in the configuration.
func (m Mode) String() string { return [...]string{Drop: "drop", Count: "count", Off: "off"}[m] }

// The bits of State.Drop; DROP_* in bpf/settings.h.
const (
	dropPlain   = 1
	dropUnheld  = 2
	dropVirtual = 4
)

// heartbeatInterval is the time between two heartbeats.
const heartbeatInterval = 500 * time.Millisecond

// State is what the hooks and the guard's programs read about the process. Its fields are
// those of struct guard in bpf/settings.h.
type State struct {
	Alive      uint64 // time of the last heartbeat: CLOCK_MONOTONIC in nanoseconds
	SealLevels uint64 // bit n: a cgroup at level n is sealed
	Veth       uint32 // interface index of the host's end of the veth pair
	Drop       uint32
}

// Programs are attached to each interface: one for each direction, for interfaces with and
// without Ethernet frames. Back is attached to the veth pair. So is Answer, which answers queries
// in the place of the listener; it may be nil.
type Programs struct {
	OutIP, InIP, OutFrame, InFrame, Back, Answer *ebpf.Program
}

// Config describes a guard. All fields are required, except Filters.
type Config struct {
	Mode    Mode
	Log     *slog.Logger
	Name    string // of the instance
	PinDir  string // where tcx links are pinned
	Network *network.Network

	Programs   Programs
	Links      *ebpf.Map // flags by interface index
	Sealed     *ebpf.Map // levels by cgroup ID
	WriteState func(State) error

	// Filters prefers filters to tcx links, except on interfaces where another program has
	// tcx links, which run before all filters. Attaching a link takes an RCU grace period,
	// about 20 ms, which is long for an instance that seals one short command.
	Filters bool
}

// Guard keeps the guard's programs on the host's interfaces. Its methods may be called
// concurrently. Disarm, StopVirtual, Detach and Reconcile do nothing on a nil Guard.
type Guard struct {
	cfg   Config
	links attachments

	mu       sync.Mutex
	state    State
	attached bool
	failed   string // the last failure that was logged
}

// New prepares a guard that seals groups. root is the directory of the cgroup hierarchy. It
// changes only maps, which no program reads yet unless an earlier process left its hooks.
func New(cfg Config, groups []cgroup.Group, root string) (*Guard, error) {
	g := &Guard{
		cfg:   cfg,
		links: attachments{dir: cfg.PinDir, name: cfg.Name, host: cfg.Network.HostNetlink(), preferFilters: cfg.Filters},
	}
	if err := g.Seal(groups, root); err != nil {
		return nil, err
	}
	return g, nil
}

// Seal replaces the sealed cgroups. Other levels than before are in force with the next heartbeat.
func (g *Guard) Seal(groups []cgroup.Group, root string) error {
	wanted := make(map[uint64]bool)
	var levels cgroup.Levels
	for _, sealed := range groups {
		level, err := sealed.Level(root)
		if err != nil {
			return err
		}
		if err := levels.Add(uint32(level)); err != nil {
			return fmt.Errorf("seal cgroup %s: %w", sealed.Path, err)
		}
		wanted[sealed.ID] = true
		if err := g.cfg.Sealed.Put(sealed.ID, uint32(level)); err != nil {
			return fmt.Errorf("add sealed cgroup %s: %w", sealed.Path, err)
		}
	}
	g.mu.Lock()
	g.state.SealLevels = uint64(levels)
	g.mu.Unlock()
	return keepOnly(g.cfg.Sealed, wanted)
}

// keepOnly removes the other cgroups, which an earlier process sealed.
func keepOnly(sealed *ebpf.Map, wanted map[uint64]bool) error {
	var id uint64
	var level uint32
	var others []uint64
	it := sealed.Iterate()
	for it.Next(&id, &level) {
		if !wanted[id] {
			others = append(others, id)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list sealed cgroups: %w", err)
	}
	for _, id := range others {
		if err := sealed.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove sealed cgroup %d: %w", id, err)
		}
	}
	return nil
}

// Attach attaches the programs to all interfaces. In mode Off it removes those of an earlier
// process. An interface that cannot be guarded is an error here, and a warning later.
func (g *Guard) Attach() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cfg.Mode == Drop {
		g.state.Drop = dropPlain | dropUnheld
	}
	g.attached = true
	if err := g.writeState(); err != nil {
		return err
	}
	if g.cfg.Mode == Off {
		return g.links.clear()
	}
	if err := g.sync(); err != nil {
		return fmt.Errorf("guard the interfaces: %w", err)
	}
	return nil
}

// Reattach is Attach after another process may have replaced the programs.
func (g *Guard) Reattach() error {
	g.mu.Lock()
	clear(g.links.have)
	g.mu.Unlock()
	return g.Attach()
}

// Disarm lets queries in the clear through from now on. Packets for virtual addresses are
// redirected and checked as before.
func (g *Guard) Disarm() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Drop &^= dropPlain
	return g.writeState()
}

// StopVirtual drops all packets to virtual addresses from now on: the instance has stopped.
func (g *Guard) StopVirtual() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Drop = dropVirtual
	return g.writeState()
}

// Detach removes the programs from all interfaces.
func (g *Guard) Detach() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attached = false
	return g.links.clear()
}

// Heartbeat writes a heartbeat. Run does so periodically.
func (g *Guard) Heartbeat() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writeState()
}

// writeState writes the state with the current time. g.mu is held.
func (g *Guard) writeState() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil { // bpf_ktime_get_ns
		return fmt.Errorf("read the clock: %w", err)
	}
	g.state.Alive = uint64(now.Nano())
	if err := g.cfg.WriteState(g.state); err != nil {
		return fmt.Errorf("write the guard's state: %w", err)
	}
	return nil
}

// Run writes heartbeats until ctx ends, then it returns nil.
func (g *Guard) Run(ctx context.Context) error {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		g.beat()
	}
}

// beat writes a heartbeat if the guard is attached, and logs a failure. Success is that of the
// heartbeat alone: an interface that cannot be guarded stays known as one that was logged.
func (g *Guard) beat() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.attached {
		return
	}
	if err := g.writeState(); err != nil {
		g.logFailure(err)
	}
}

// Reconcile guards new interfaces and forgets removed ones. It logs failures.
func (g *Guard) Reconcile() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.attached && g.cfg.Mode != Off {
		g.logFailure(g.sync())
	}
}

// logFailure logs a failure, unless it is the same as the last one. g.mu is held.
func (g *Guard) logFailure(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != g.failed {
		g.cfg.Log.Warn("cannot guard every interface; queries that the hooks do not redirect may leave by it", "err", err)
	}
	g.failed = text
}

// UseFilters attaches programs as filters only. It is for tests of kernels without tcx.
func (g *Guard) UseFilters() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.links.noTCX = true
}

// UsesFilters reports whether programs are attached as filters only.
func (g *Guard) UsesFilters() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.links.noTCX
}

// sync attaches programs to new interfaces, and updates the map of interfaces. g.mu is held.
func (g *Guard) sync() error {
	links, err := g.cfg.Network.HostLinks()
	if err != nil {
		return err
	}
	return g.cfg.Network.Home().Do(func() error { return g.syncLinks(links) })
}

// syncLinks runs on a thread in the host's namespace.
func (g *Guard) syncLinks(links []network.Link) error {
	flags, err := linkFlags(links)
	if err != nil {
		return err
	}
	var errs []error
	veth := uint32(0)
	progs := &g.cfg.Programs
	for _, l := range links {
		if l.Own {
			veth = uint32(l.Index)
			errs = append(errs, g.links.attach(attachment{l.Index, "back"}, progs.Back, true),
				g.links.attachOrRemove(attachment{l.Index, "answer"}, progs.Answer, false))
			continue
		}
		// The flags come first: an interface without flags is treated as external.
		if err := g.cfg.Links.Put(uint32(l.Index), flags[l.Index]); err != nil {
			errs = append(errs, fmt.Errorf("write the flags of link %s: %w", l.Name, err))
			continue
		}
		if err := g.guardLink(l, flags[l.Index]); err != nil {
			errs = append(errs, fmt.Errorf("link %s: %w", l.Name, err))
		}
	}
	errs = append(errs, g.forgetOthers(links))
	if veth != g.state.Veth {
		g.state.Veth = veth
		errs = append(errs, g.writeState())
	}
	return errors.Join(errs...)
}

// guardLink attaches the programs to an interface.
func (g *Guard) guardLink(l network.Link, flags uint32) error {
	out, in := g.cfg.Programs.OutIP, g.cfg.Programs.InIP
	if l.Framed {
		out, in = g.cfg.Programs.OutFrame, g.cfg.Programs.InFrame
	}
	err := g.links.attach(attachment{l.Index, "out"}, out, false)
	if errors.Is(err, errNoEgress) && flags&linkInside != 0 {
		err = nil // what leaves by it has not left the machine
	}
	return errors.Join(err, g.links.attach(attachment{l.Index, "in"}, in, true))
}

// forgetOthers removes the flags and pins of interfaces that were removed. Their indices are
// not reused before they wrap around, but the map has a limited size.
func (g *Guard) forgetOthers(links []network.Link) error {
	exists := make(map[int]bool, len(links))
	for _, l := range links {
		exists[l.Index] = true
	}
	var removed []uint32
	var index, flags uint32
	it := g.cfg.Links.Iterate()
	for it.Next(&index, &flags) {
		if !exists[int(index)] {
			removed = append(removed, index)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list guarded links: %w", err)
	}
	var errs []error
	for _, index := range removed {
		if err := g.cfg.Links.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("remove the flags of link %d: %w", index, err))
		}
	}
	return errors.Join(append(errs, g.links.forgetOthers(exists))...)
}
