// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"sotto/intercept/nat"
)

// Instance is one seal: its hooks, slots and network. All methods may be called
// concurrently, but none other than Origin and Workload after Close.
type Instance struct {
	cfg       Config
	groups    []group // sealed
	file      *os.File
	workloads *workloads
	network   *network
	nat       *nat.Table
	kernel    *kernel
	origins   *origins
	guard     *guard

	// previous are the directories that an earlier process of the name sealed.
	previous []string

	mu sync.Mutex
	// inherited: an earlier process left hooks, which are not this one's to take
	// away before Attach put its own programs in them.
	inherited bool
	attached  bool
	detached  bool // again
	yielded   bool // another process owns it
	closed    bool
}

// Open makes everything but the hooks: the instance's name and lock, the network,
// the maps and programs. It is called in the network namespace that the sealed
// workloads' packets come through, which is the host's. What an earlier process of
// the same name left is adopted; what dead commands left is cleared. While another process
// has the instance the error is [ErrOwned].
//
// The caller closes the instance, whatever happens next. ctx is only looked at
// before the work begins, which takes milliseconds.
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
	root, err := CgroupRoot()
	if err != nil {
		return nil, err
	}
	if i.groups, err = findGroups(cfg.Cgroups); err != nil {
		return nil, err
	}
	if i.workloads, err = newWorkloads(root); err != nil {
		return nil, err
	}
	if i.file, i.previous, err = claimInstance(&i.cfg, i.groups); err != nil {
		return nil, err
	}
	if i.inherited, err = hooked(pinDir(i.cfg.BPFFS, i.cfg.Name)); err != nil {
		return nil, err
	}
	if err := i.openNetwork(); err != nil {
		return nil, err
	}
	if err := i.openNAT(); err != nil {
		return nil, err
	}
	if i.kernel, err = loadKernel(&i.cfg, i.groups, i.workloads); err != nil {
		return nil, err
	}
	if i.origins, err = newOrigins(&i.cfg, i.kernel.Origins); err != nil {
		return nil, err
	}
	if err := i.resetExclusion(); err != nil {
		return nil, err
	}
	i.guard, err = newGuard(&i.cfg, i.kernel, i.network, i.groups, root)
	return i, err
}

func (i *Instance) openNetwork() (err error) {
	i.network, err = newNetwork(networkConfig{
		Name: i.cfg.Name, Link: linkBase(i.cfg.Name),
		Prefix4: i.cfg.Prefix4, Prefix6: i.cfg.Prefix6,
		Log: i.cfg.Log, OnChange: i.cfg.OnNetworkChange, OnLook: func() { i.guard.follow() },
	})
	if err != nil {
		return err
	}
	return i.network.ensure()
}

// openNAT exempts the virtual addresses from the host's address translation.
func (i *Instance) openNAT() (err error) {
	i.nat, err = nat.New(nat.Config{Instance: i.cfg.Name, Prefixes: i.network.prefixes(), Log: i.cfg.Log})
	if err == nil {
		i.ensureNAT()
	}
	return err
}

// ensureNAT logs a failure and goes on: Run tries again, and a query that is translated
// meanwhile is not answered.
func (i *Instance) ensureNAT() {
	if err := i.nat.Ensure(); err != nil {
		i.cfg.Log.Warn("cannot exempt virtual addresses from the address translation of this host", "err", err)
	}
}

// Name returns the instance's name, also that of its network namespace.
func (i *Instance) Name() string { return i.cfg.Name }

// Prefixes returns the networks of the virtual addresses.
func (i *Instance) Prefixes() (v4, v6 netip.Prefix) { return i.cfg.Prefix4, i.cfg.Prefix6 }

// Do runs fn inside the listener's network namespace, on a thread of its own:
// sockets that it makes belong there.
func (i *Instance) Do(fn func() error) error { return i.network.do(fn) }

// Mounts reports whether the instance mounts anything once it is open: to give its network
// namespace the name back, or for a sysctl. It does not in a mount namespace of its own
// (a systemd service with ProtectSystem=, say), where nobody else would see it.
func (i *Instance) Mounts() bool { return !i.network.elsewhere }

// Attach hooks the programs to the cgroups. The listener must answer by now.
func (i *Instance) Attach() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return errors.New("attach: the instance is closed")
	}
	// The guard comes first: what the hooks then lead to the listener must not leave
	// by another interface.
	if err := i.guard.attach(); err != nil {
		return explain(err)
	}
	if !i.inherited {
		i.endStrays()
	}
	fresh := i.kernel.unhooked(i.groups)
	// The hooks go live here.
	if err := i.kernel.attach(i.groups, i.cfg.Guard != GuardOff); err != nil {
		if i.inherited { // and with it the guard, of an earlier process or of one that goes on
			return explain(err)
		}
		return errors.Join(explain(err), i.guard.detach())
	}
	i.attached = true
	if i.cfg.Guard == GuardDrop && len(fresh) > 0 {
		i.endPlainSockets(fresh)
	}
	if i.inherited { // whose hooks gave out addresses until now
		i.endStrays()
	}
	// Only now may outer seals let these cgroups through.
	if i.cfg.Ephemeral {
		return i.tellOthers(true)
	}
	return nil
}

// Detach detaches the hooks that redirect queries and leaves everything else: from here on
// queries go where they were sent, and replies to earlier ones are restored still. A clean
// stop starts with it, so that no query is redirected to a listener that has closed. It is
// idempotent, and does nothing before Attach.
func (i *Instance) Detach() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || !i.attached {
		return nil
	}
	return i.detach()
}

// detach ends the seal. Where outer instances made way for this one they take over
// before its hooks go, so that the cgroups are sealed all the while.
func (i *Instance) detach() error {
	if i.detached || i.yielded {
		return nil
	}
	var errs []error
	if i.cfg.Ephemeral && i.attached {
		errs = append(errs, i.tellOthers(false))
	}
	// What the hooks redirect no longer is not to be stopped.
	errs = append(errs, i.guard.disarm(), detachRedirects(pinDir(i.cfg.BPFFS, i.cfg.Name)))
	err := errors.Join(errs...)
	i.detached = err == nil
	return err
}

// Run keeps the instance in order: the network is repaired and follows the host's
// addresses, idle slots are collected. It returns nil when ctx ends.
func (i *Instance) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return i.network.run(ctx) })
	g.Go(func() error { return i.nat.Run(ctx) })
	g.Go(func() error { return i.collectIdle(ctx) })
	g.Go(func() error { return i.watchArrivals(ctx) })
	g.Go(func() error { return i.guard.run(ctx) })
	return g.Wait()
}

// Control marks a socket as Sotto's own: the hooks let it through. It is the
// Control function of a net.Dialer or net.ListenConfig.
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

// Close removes everything that the instance made: hooks first, then network, maps, pins
// and record. Sockets that are connected to virtual addresses are ended. Where some cannot
// be, what keeps their packets on this machine stays, for the next Open or [Down]. Where an
// earlier process left hooks and Attach was never reached, all of that stays: a start that
// failed must not open what a crash kept closed. Close is idempotent.
func (i *Instance) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.close(i.inherited && !i.attached)
}

// Abandon lets go of the instance and leaves it in the kernel, as a crash does:
// what is sealed stays closed until another process adopts it, or Down. It is for
// a failure that nobody asked for. Close afterwards does nothing.
func (i *Instance) Abandon() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.close(true)
}

// close releases what the process holds; unless all of it is to stay, what the
// kernel holds goes before. i.mu is held.
func (i *Instance) close(stay bool) error {
	if i.closed {
		return nil
	}
	i.closed = true
	var errs []error
	made := i.file != nil || i.yielded
	if made && !stay && !i.yielded {
		var err error
		stay, err = i.takeAway()
		errs = append(errs, err)
	}
	if made && (stay || i.yielded) && i.network != nil {
		errs = append(errs, i.network.leave())
	}
	if i.nat != nil {
		errs = append(errs, i.nat.Leave()) // unless it was removed
	}
	if i.kernel != nil {
		errs = append(errs, i.kernel.Close())
	}
	if i.workloads != nil {
		errs = append(errs, i.workloads.close())
	}
	if i.file != nil {
		errs = append(errs, i.file.Close())
	}
	return errors.Join(errs...)
}

// takeAway ends the seal and removes what it stood on. It reports whether that stays,
// because sockets hold virtual addresses still.
func (i *Instance) takeAway() (stays bool, err error) {
	// A hook that stays needs the unreachable routes, and the record stays for Down.
	if err := i.detach(); err != nil {
		return false, err
	}
	if i.guard != nil {
		if stays, err := i.endHolders(); stays || err != nil {
			return stays, err
		}
	}
	var errs []error
	// The guard goes now, and not with the hooks: until here the listener may have
	// answered still, and an answer to a source that somebody made up must not leave.
	if i.network != nil {
		errs = append(errs, i.guard.shut(), i.guard.detach(), i.network.close(i.endLate))
	}
	// After the routes: until they are gone no packet for a virtual address is translated.
	if i.nat != nil {
		errs = append(errs, i.nat.Remove())
	}
	errs = append(errs, removePins(pinDir(i.cfg.BPFFS, i.cfg.Name)))
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	reg, err := openRegistry(i.cfg.RunDir)
	if err != nil {
		return false, err
	}
	return false, errors.Join(reg.forget(i.cfg.Name), reg.release())
}

// leave lets go of the network and changes nothing of it.
func (n *network) leave() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var err error
	if n.ns != nil {
		n.inner.Close()
		err = n.ns.Close()
		n.ns = nil
	}
	n.host.Close()
	return errors.Join(err, n.home.Close())
}
