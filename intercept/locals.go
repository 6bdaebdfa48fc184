// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"net/netip"

	"sotto/intercept/guard"
)

// syncLocals updates the addresses of the local resolvers that are kept. It does nothing if
// they are redirected.
func (i *Instance) syncLocals() error {
	if i.cfg.LocalResolvers != LocalKeep {
		return nil
	}
	links, err := i.network.HostLinks()
	if err != nil {
		return err
	}
	addrs, err := i.network.HostAddresses()
	if err != nil {
		return err
	}
	return i.locals.Sync(addrs, guard.InsideLinks(links))
}

// logLocals logs a failure of syncLocals. Run retries periodically.
func (i *Instance) logLocals(err error) {
	if err != nil {
		i.cfg.Log.Warn("cannot update the addresses of local resolvers; queries to new ones are redirected", "err", err)
	}
}

// keeps reports whether queries of the host to addr are left alone because it is the address
// of a local resolver.
func (i *Instance) keeps(addr netip.Addr) bool {
	if i.cfg.LocalResolvers != LocalKeep {
		return false
	}
	return addr.Unmap().IsLoopback() || i.locals.Contains(addr)
}
