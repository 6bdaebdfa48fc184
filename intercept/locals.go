// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"
	"path/filepath"

	"sotto/intercept/cgroup"
	"sotto/intercept/local"
)

// syncLocals updates the addresses of local resolvers, also in the map of those that are
// kept.
func (i *Instance) syncLocals() (*local.Addresses, error) {
	addrs, err := local.Read(i.network)
	if err != nil {
		return nil, err
	}
	i.locals.Store(addrs)
	if i.cfg.LocalResolvers != LocalKeep {
		return addrs, nil
	}
	return addrs, addrs.Sync(i.kernel.Locals)
}

// updateLocals calls syncLocals, unless the addresses were not needed yet, and logs a failure.
// Run retries periodically.
func (i *Instance) updateLocals() {
	if i.locals.Load() == nil {
		return
	}
	if _, err := i.syncLocals(); err != nil {
		i.cfg.Log.Warn("cannot update the addresses of local resolvers", "err", err)
	}
}

// keeps reports whether queries of the host to addr are left alone because it is the address
// of a local resolver.
func (i *Instance) keeps(addr netip.Addr) bool {
	return i.cfg.LocalResolvers == LocalKeep && i.IsLocal(addr)
}

// IsLocal reports whether a nameserver at addr is a local resolver. Run keeps it up to date.
// Only the first call may take long.
func (i *Instance) IsLocal(addr netip.Addr) bool {
	if addr.Unmap().IsLoopback() {
		return true
	}
	addrs := i.locals.Load()
	if addrs == nil {
		var err error
		if addrs, err = i.syncLocals(); err != nil {
			i.cfg.Log.Warn("cannot read the addresses of local resolvers", "err", err)
			return false
		}
	}
	return addrs.Contains(addr)
}

// DoLocal runs open, which opens a socket to the local resolver at the original destination o
// and connects it. It does so in the network namespace of the client, or of the host if
// only that has the address. It returns an error if packets would leave this machine.
func (i *Instance) DoLocal(o Origin, open func() error) error {
	return i.resolvers.Do(o.Addr.Addr(), o.Netns, func() []int { return i.processes(o.CgroupID) }, open)
}

// processes returns the processes in a cgroup, as far as they are known.
func (i *Instance) processes(id uint64) []int {
	path := i.paths.Find(id)
	if path == "" {
		return nil
	}
	pids, err := cgroup.Processes(filepath.Join(i.paths.Root(), path))
	if err != nil {
		return nil
	}
	return pids
}
