// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sotto/intercept/cgroup"
	"sotto/intercept/references"
	"sotto/intercept/registry"
	"sotto/intercept/sockets"
)

// destroyPlain destroys the sockets of workloads in groups that were connected to a
// nameserver before the seal: their programs get ECONNABORTED and connect again, sealed. The
// guard stops queries of sockets that cannot be destroyed, so that a failure only makes
// their programs wait.
func (i *Instance) destroyPlain(groups []cgroup.Group) {
	var errs []error
	var pids []int
	for _, g := range groups {
		found, err := cgroup.Processes(g.Path)
		pids = append(pids, found...)
		errs = append(errs, err)
	}
	dirs := cgroup.Dirs(groups)
	spaces, err := sockets.ProcessNamespaces(i.network.Home(), pids)
	destroyed, err2 := spaces.Destroy(func(s sockets.Socket) bool { return i.isPlain(s, dirs) })
	if err := errors.Join(append(errs, err, err2, spaces.Close())...); err != nil {
		i.cfg.Log.Warn("cannot destroy every socket that was connected to a nameserver before the seal; its queries are stopped until its program connects again", "err", err)
	}
	if destroyed > 0 {
		i.cfg.Log.Info("destroyed sockets that were connected to nameservers before the seal", "sockets", destroyed)
	}
}

// isPlain reports whether a socket belongs to a workload in or below the cgroups with the
// directories dirs, and is connected to an address that the hooks redirect.
func (i *Instance) isPlain(s sockets.Socket, dirs []string) bool {
	remote := s.Remote.Addr()
	if !slices.Contains(i.cfg.Ports, s.Remote.Port()) || remote.IsUnspecified() || remote.IsMulticast() || i.keeps(remote) ||
		contains(remote, i.cfg.Prefix4, i.cfg.Prefix6) {
		return false
	}
	path, root := i.paths.Find(s.Cgroup), i.paths.Root()
	return path != "" && cgroup.IsWithin(root, path, dirs) && !cgroup.IsWithin(root, path, i.cfg.Exclude) &&
		!i.isSealedByOther(path)
}

// isSealedByOther reports whether a workload belongs to a command that another instance
// seals.
func (i *Instance) isSealedByOther(path string) bool {
	all, err := i.exclusion().all()
	if err != nil {
		return false
	}
	for id := range all {
		if top := i.paths.Find(id); top != "" && (path == top || strings.HasPrefix(path, top+"/")) {
			return true
		}
	}
	return false
}

// contains reports whether one of the prefixes contains addr. It ignores invalid prefixes.
func contains(addr netip.Addr, prefixes ...netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.IsValid() && p.Contains(addr) })
}

// destroyVirtual destroys the sockets that are connected to virtual addresses in prefixes, in
// all network namespaces: those of workloads in or below the cgroups with the directories
// dirs, and of removed cgroups. No socket may send to a virtual address after its instance
// has stopped. With match it destroys only those for which it returns true.
func destroyVirtual(paths *cgroup.Paths, match func(sockets.Socket) bool, dirs []string, prefixes ...netip.Prefix) (destroyed int, err error) {
	spaces, err := sockets.AllNamespaces()
	destroyed, err2 := spaces.Destroy(func(s sockets.Socket) bool {
		if !contains(s.Remote.Addr(), prefixes...) || match != nil && !match(s) {
			return false
		}
		path := paths.Find(s.Cgroup)
		return path == "" || cgroup.IsWithin(paths.Root(), path, dirs)
	})
	return destroyed, errors.Join(err, err2, spaces.Close())
}

// earlierPrefixes returns the prefixes of earlier processes that are not those of this one: no map
// of this process describes the sockets that are connected to their virtual addresses.
func (i *Instance) earlierPrefixes() []netip.Prefix {
	return slices.DeleteFunc(append(registry.Prefixes(i.earlier), i.network.Old()...), func(p netip.Prefix) bool {
		return p == i.cfg.Prefix4 || p == i.cfg.Prefix6
	})
}

// destroyOld destroys the sockets of this and of earlier processes' workloads that are connected to
// virtual addresses in prefixes.
func (i *Instance) destroyOld(prefixes []netip.Prefix) (destroyed int, err error) {
	return destroyVirtual(i.paths, nil, append(cgroup.Dirs(i.groups), registry.Dirs(i.earlier)...), prefixes...)
}

// destroyStale destroys the sockets that are connected to virtual addresses of earlier processes:
// those in other prefixes, and those in the prefixes of this one unless their maps were adopted. The
// guard stops those that cannot be destroyed, because they hold no slot.
//
// It reports false if sockets may be left.
func (i *Instance) destroyStale() bool {
	if i.cfg.Ephemeral {
		return true
	}
	prefixes := i.earlierPrefixes()
	if !i.kernel.adopted {
		prefixes = append(prefixes, i.cfg.Prefix4, i.cfg.Prefix6)
	}
	if len(prefixes) == 0 {
		return true
	}
	destroyed, err := i.destroyOld(prefixes)
	if err != nil {
		i.cfg.Log.Warn("cannot destroy every socket that an earlier process redirected; its packets are stopped until its program connects again", "err", err)
	}
	if destroyed > 0 {
		i.cfg.Log.Info("destroyed sockets that an earlier process redirected", "sockets", destroyed)
	}
	return err == nil
}

// forgetEarlier removes the routes that keep packets to virtual addresses of earlier processes on
// this machine, and the record of these processes. None of their sockets is left. i.mu is held.
func (i *Instance) forgetEarlier() {
	err := i.network.RemoveOld()
	if err == nil && len(i.earlier) > 0 {
		i.earlier = nil
		err = i.rewriteRecord()
	}
	if err != nil {
		i.cfg.Log.Warn("cannot remove the routes to the virtual addresses of an earlier process", "err", err)
	}
}

// destroyConnected destroys the sockets that are connected to this instance's virtual
// addresses: after the removal of the instance's routes their packets would follow the
// default route. Some of them hold no slot: sockets that their program has closed, whose
// queries the kernel retransmits until they are acknowledged. It reports whether sockets
// are left; then all packets to virtual addresses are dropped before they leave their cgroup.
func (i *Instance) destroyConnected() (left bool, err error) {
	if prefixes := i.earlierPrefixes(); len(prefixes) > 0 { // destroyStale has failed
		if _, err := i.destroyOld(prefixes); err != nil {
			i.cfg.Log.Warn("cannot destroy sockets that an earlier process redirected; the routes that keep their queries on this machine stay: "+
				"stop the programs that have them and run 'sotto down', or start Sotto again", "err", err)
			return true, i.guard.StopVirtual()
		}
	}
	if used, err := i.kernel.everUsed(); err == nil && !used {
		return false, nil
	}
	destroy := func(match func(sockets.Socket) bool) (int, error) {
		return destroyVirtual(i.paths, match, cgroup.Dirs(i.groups), i.cfg.Prefix4, i.cfg.Prefix6)
	}
	survived := 0
	destroyed, err := destroy(nil)
	if destroyed > 0 {
		i.cfg.Log.Info("destroyed sockets that were connected through the seal", "sockets", destroyed)
		var again error
		// Older kernels, such as 5.10, keep a socket that its program has closed, but not what it had to send
		// (tcp_abort in net/ipv4/tcp.c).
		survived, again = destroy(func(s sockets.Socket) bool { return !s.Closed })
		err = errors.Join(err, again)
	}
	open, err := i.kernel.connectedSockets(err)
	if open += survived; open == 0 && err == nil {
		return false, nil
	}
	i.cfg.Log.Warn("cannot destroy sockets of sealed programs; the routes that keep their queries on this machine stay: "+
		"stop those programs and run 'sotto down', or start Sotto again", "sockets", open, "err", err)
	return true, i.guard.StopVirtual()
}

// lateTime is the time that a connect may take from its hook to its first packet:
// microseconds, or a few time slices on a busy processor.
const lateTime = 250 * time.Millisecond

// destroyLate destroys sockets whose connect had just passed its hook when destroyConnected
// listed the sockets. While it runs virtual addresses are unreachable, so that none of them
// can have sent anything. The processes of a command have been killed before.
func (i *Instance) destroyLate() {
	if i.kernel == nil { // it could not be loaded
		return
	}
	used, err := i.kernel.everUsed()
	if i.cfg.Ephemeral || err == nil && !used {
		return
	}
	time.Sleep(lateTime)
	_, err = destroyVirtual(i.paths, nil, cgroup.Dirs(i.groups), i.cfg.Prefix4, i.cfg.Prefix6)
	if err != nil {
		i.cfg.Log.Warn("cannot destroy sockets that were being connected", "err", err)
	}
}

// destroyLeft destroys the sockets that a dead instance left connected to its virtual
// addresses.
func destroyLeft(rec registry.Record, prefixes []netip.Prefix) error {
	root, err := cgroup.Root()
	if err != nil {
		return nil // without cgroup2 nothing was sealed
	}
	paths, err := cgroup.NewPaths(root)
	if err != nil {
		return err
	}
	_, err = destroyVirtual(paths, nil, registry.Dirs(rec.Leftovers()), prefixes...)
	if err = errors.Join(err, paths.Close()); err != nil {
		return fmt.Errorf("%w; stop the programs that have these sockets, and run 'sotto down' again", err)
	}
	return nil
}

// everUsed reports whether any slot was ever used, since the maps were made.
func (k *kernel) everUsed() (bool, error) {
	counters, err := k.counters()
	used := counters[counterNames[sottoCounterCOUNT_SLOT_NEW]] > 0
	return used, errors.Join(err, k.eachSlot(func(s slotState) { used = used || s.Used != 0 }))
}

// connectedSockets returns the number of open sockets that are connected to virtual
// addresses. destroyErr is the error of destroying them: if the kernel cannot count sockets,
// the number is 0 and the error is destroyErr.
func (k *kernel) connectedSockets(destroyErr error) (int, error) {
	held := false
	if err := k.eachSlot(func(s slotState) { held = held || s.Used != 0 && s.Refs > 0 }); err != nil {
		return 0, errors.Join(destroyErr, err)
	}
	if !held {
		return 0, destroyErr
	}
	_, peers, err := k.refs.Count(k.Connected, k.Replaced)
	if errors.Is(err, references.ErrUnsupported) {
		return 0, destroyErr
	}
	if err != nil {
		return 0, errors.Join(destroyErr, err)
	}
	if peers == 0 {
		return 0, nil
	}
	return int(peers), destroyErr
}
