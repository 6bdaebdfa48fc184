// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"sotto/intercept/cgroup"
	"sotto/intercept/feature"
	"sotto/intercept/guard"
	"sotto/intercept/local"
	"sotto/intercept/nat"
	"sotto/intercept/network"
	"sotto/intercept/pins"
	"sotto/intercept/registry"
	"sotto/intercept/spaces"
)

// Instance is one seal: its hooks, slots and network. All methods may be called
// concurrently. After Close only Origin, Workload and Owner may be called.
type Instance struct {
	cfg     Config
	groups  []cgroup.Group // sealed; IDs change, see follow
	file    *os.File       // the locked record
	paths   *cgroup.Paths
	network *network.Network
	nat     *nat.Table
	kernel  *kernel
	origins *origins
	guard   *guard.Guard
	hits    hitState

	watchers  watchers
	locals    atomic.Pointer[local.Addresses] // nil until they are needed
	resolvers *local.Resolvers
	owners    *spaces.Owners

	// earlier lists what earlier processes with the same instance name may have left, unless this one
	// has adopted it. Attach clears it.
	earlier []registry.Leftover

	mu sync.Mutex
	// hadHooks: an earlier process left hooks. This process must not remove them before
	// Attach has put its own programs in them.
	hadHooks bool
	attached bool
	detached bool // after attached
	released bool // another process may own the instance
	closed   bool

	missing map[string]bool // directories of sealed cgroups that do not exist now
}

// Open creates everything except the hooks: the instance's name and lock, its network, its
// maps and programs. It must be called in the network namespace that packets of the sealed
// workloads pass through, that of the host. It adopts the leftovers of an earlier process
// with the same instance name, and removes those of commands. If another process owns the
// instance, the error is [ErrOwned].
//
// The caller closes the instance. ctx is checked only at the start; Open takes
// milliseconds.
func Open(ctx context.Context, cfg Config) (_ *Instance, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("open instance: %w", err)
	}
	i := &Instance{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	object := readObject()
	root, err := cgroup.Root()
	if err != nil {
		return nil, err
	}
	groups, err := cgroup.Groups(cfg.Cgroups)
	if err != nil {
		return nil, err
	}
	// The hooks of a cgroup run for those below it, too. If those had hooks of their own, the
	// outer ones would see addresses that the inner ones have written.
	i.groups = cgroup.Outermost(groups)
	if i.paths, err = cgroup.NewPaths(root); err != nil {
		return nil, err
	}
	if i.file, i.earlier, err = claimInstance(&i.cfg, i.groups); err != nil {
		return nil, err
	}
	if i.hadHooks, err = pins.HasHooks(pins.Dir(i.cfg.BPFFS, i.cfg.Name)); err != nil {
		return nil, err
	}
	if err := i.openNetwork(); err != nil {
		return nil, err
	}
	if err := i.openNAT(); err != nil {
		return nil, err
	}
	if i.kernel, err = loadKernel(&i.cfg, object, i.groups, i.paths); err != nil {
		return nil, err
	}
	if i.origins, err = newOrigins(&i.cfg, i.kernel.Origins); err != nil {
		return nil, err
	}
	if err := errors.Join(i.resetExclusions(), i.findSubtrees()); err != nil {
		return nil, err
	}
	if i.cfg.LocalResolvers == LocalKeep {
		if _, err := i.syncLocals(); err != nil {
			return nil, err
		}
	}
	i.openHits()
	i.guard, err = i.kernel.newGuard(&i.cfg, i.network, i.groups, root, i.hitProgram())
	return i, err
}

func (i *Instance) openNetwork() (err error) {
	i.network, err = network.New(network.Config{
		Name: i.cfg.Name, Link: linkBase(i.cfg.Name),
		Prefix4: i.cfg.Prefix4, Prefix6: i.cfg.Prefix6, Old: registry.Prefixes(i.earlier),
		Log: i.cfg.Log, OnChange: i.cfg.OnNetworkChange, OnReconcile: func() { i.guard.Reconcile(); i.updateLocals() },
	})
	if err != nil {
		return err
	}
	var finder spaces.Finder
	i.resolvers = local.NewResolvers(i.network, &finder)
	err = i.network.Home().Do(func() (err error) {
		i.owners, err = spaces.NewOwners(&finder, i.paths)
		return err
	})
	if err != nil {
		return err
	}
	return i.network.Ensure()
}

// openNAT exempts the virtual addresses from the host's NAT.
func (i *Instance) openNAT() (err error) {
	i.nat, err = nat.New(nat.Config{Instance: i.cfg.Name, Prefixes: i.network.Prefixes(), Log: i.cfg.Log})
	if err == nil {
		i.ensureNAT()
	}
	return err
}

// ensureNAT logs a failure. Run retries; meanwhile queries that the host translates are not
// answered.
func (i *Instance) ensureNAT() {
	if err := i.nat.Ensure(); err != nil {
		i.cfg.Log.Warn("cannot exempt virtual addresses from the NAT of this host", "err", err)
	}
}

// Name returns the instance's name, also that of its network namespace.
func (i *Instance) Name() string { return i.cfg.Name }

// Prefixes returns the networks of the virtual addresses.
func (i *Instance) Prefixes() (v4, v6 netip.Prefix) { return i.cfg.Prefix4, i.cfg.Prefix6 }

// HostLink returns the name of the interface by which the host reaches the virtual addresses.
func (i *Instance) HostLink() string { return i.network.HostLink() }

// Port returns one of the sealed ports.
func (i *Instance) Port() uint16 { return i.cfg.Ports[0] }

// Do runs fn inside the listener's network namespace, on a thread of its own. Sockets that
// it opens belong to that namespace.
func (i *Instance) Do(fn func() error) error { return i.network.Do(fn) }

// Mounts reports whether the instance may mount something after Open: to restore the name of
// its network namespace, or to set a sysctl. It does not in a mount namespace of its own
// (such as that of a systemd service with ProtectSystem=), where a mount would have no
// effect outside.
func (i *Instance) Mounts() bool { return !i.network.NameElsewhere() }

// Attach attaches the hooks to the cgroups. The listener must be ready before.
func (i *Instance) Attach() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return errors.New("attach: the instance is closed")
	}
	again := i.updateGroups() // since Open
	if len(again) > 0 {
		if err := i.guard.Seal(i.groups, i.paths.Root()); err != nil {
			return err
		}
	}
	// The guard comes first: packets that the hooks redirect must not leave by another
	// interface.
	if err := i.guard.Attach(); err != nil {
		return feature.Explain(err)
	}
	isClean := i.hadHooks || i.destroyStale()
	added := i.kernel.withoutHooks(i.groups)
	if err := i.kernel.attach(i.groups, i.paths, i.cfg.Guard != GuardOff); err != nil {
		if i.hadHooks { // the guard is that of an earlier process, which may still be running
			return feature.Explain(err)
		}
		return errors.Join(feature.Explain(err), i.guard.Detach())
	}
	i.attached = true
	if len(again) > 0 {
		if err := i.rewriteRecord(); err != nil {
			i.cfg.Log.Warn("cannot record a sealed cgroup that was created again", "err", err)
		}
	}
	i.startHits()
	if i.cfg.Guard == GuardDrop && len(added) > 0 {
		i.destroyPlain(added)
	}
	if i.hadHooks { // until now the old hooks connected sockets to virtual addresses
		isClean = i.destroyStale()
	}
	if isClean {
		i.forgetEarlier()
	}
	// Only now may outer seals let these cgroups through.
	if i.cfg.Ephemeral {
		return i.excludeFromOthers(true)
	}
	return nil
}

// Detach detaches the hooks that redirect queries, and nothing else: new queries are sent to
// their original destination, and replies to earlier ones are still restored. It is the
// first step of a clean stop, so that no query is redirected to a closed listener. It is
// idempotent, and does nothing before Attach.
func (i *Instance) Detach() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || !i.attached {
		return nil
	}
	return i.detach()
}

// detach ends the seal. Outer instances that excluded its cgroups seal them again before its
// hooks are detached, so that the cgroups are always sealed. i.mu is held.
func (i *Instance) detach() error {
	if i.detached || i.released {
		return nil
	}
	var errs []error
	if i.cfg.Ephemeral && i.attached {
		errs = append(errs, i.excludeFromOthers(false))
	}
	// The guard must not stop queries that are no longer redirected.
	errs = append(errs, i.guard.Disarm(), detachRedirects(pins.Dir(i.cfg.BPFFS, i.cfg.Name)))
	err := errors.Join(errs...)
	i.detached = err == nil
	return err
}

// Run repairs the network and adapts it to the host's addresses, seals cgroups again that are
// created again, collects idle slots, writes heartbeats, and logs and reports what was stopped. It returns nil when ctx ends.
func (i *Instance) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return i.network.Run(ctx) })
	g.Go(func() error { return i.nat.Run(ctx) })
	g.Go(func() error { return i.collectIdle(ctx) })
	g.Go(func() error { return i.watchArrivals(ctx) })
	g.Go(func() error { return i.guard.Run(ctx) })
	g.Go(func() error { return i.follow(ctx) })
	g.Go(func() error { return i.reportCounters(ctx) })
	g.Go(func() error { return i.reportDrops(ctx) })
	g.Go(func() error { return i.runHits(ctx) })
	return g.Wait()
}

// Control marks a socket as Sotto's own, whose queries are not redirected. It is the Control
// function of a net.Dialer or net.ListenConfig.
func (i *Instance) Control(_, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		err = i.kernel.Own.Update(int32(fd), uint32(1), ebpf.UpdateAny)
	})
	if err = errors.Join(ctl, err); err != nil {
		return fmt.Errorf("mark own socket: %w", err)
	}
	return nil
}

// Close removes everything that the instance created: first the hooks, then the network, maps,
// pins and record. It destroys sockets that are connected to virtual addresses. If some
// cannot be destroyed, the routes that keep their packets on this machine stay, for the next
// Open or [Down]. If an earlier process left hooks and Attach was not called, everything
// stays: a failed start must not open a seal that a crash left closed. Close is idempotent.
func (i *Instance) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.close(i.hadHooks && !i.attached)
}

// Abandon releases what the process holds and leaves everything in the kernel, like a crash:
// the seal stays closed until another process adopts it, or Down removes it. It is for
// failures. Close does nothing afterwards.
func (i *Instance) Abandon() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.close(true)
}

// close releases what the process holds, after removing everything from the kernel unless
// keep is true. i.mu is held.
func (i *Instance) close(keep bool) error {
	if i.closed {
		return nil
	}
	i.closed = true
	var errs []error
	if i.file != nil && !keep {
		var err error
		keep, err = i.remove()
		errs = append(errs, err)
	}
	if (i.file != nil && keep || i.released) && i.network != nil {
		errs = append(errs, i.network.Release())
	}
	if i.nat != nil {
		errs = append(errs, i.nat.Leave()) // unless it was removed
	}
	if i.hits.table != nil {
		errs = append(errs, i.hits.table.Close())
	}
	if i.kernel != nil {
		errs = append(errs, i.kernel.Close())
	}
	if i.paths != nil {
		errs = append(errs, i.paths.Close())
	}
	if i.file != nil {
		errs = append(errs, i.file.Close())
	}
	return errors.Join(errs...)
}

// remove ends the seal and removes it from the kernel. It reports whether everything except
// the hooks was left, because sockets are still connected to virtual addresses. i.mu is
// held.
func (i *Instance) remove() (left bool, err error) {
	// If a hook is left, the unreachable routes are needed, and the record is needed for Down.
	if err := i.detach(); err != nil {
		return false, err
	}
	if i.guard != nil {
		if left, err := i.destroyConnected(); left || err != nil {
			return left, err
		}
	}
	var errs []error
	// The guard is not detached together with the hooks, because the listener may have sent
	// answers until now, and an answer to a forged source address must not leave.
	if i.network != nil {
		errs = append(errs, i.guard.StopVirtual(), i.guard.Detach(), i.network.Close(i.destroyLate))
	}
	// This comes after the removal of the routes, because until then no packet to a virtual
	// address may be translated.
	if i.nat != nil {
		errs = append(errs, i.nat.Remove())
	}
	errs = append(errs, removePins(pins.Dir(i.cfg.BPFFS, i.cfg.Name)))
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return false, err
	}
	return false, errors.Join(reg.Remove(i.cfg.Name), reg.Release())
}
