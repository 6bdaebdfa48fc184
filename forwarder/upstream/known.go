// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"sync"

	"sotto/forwarder/upstream/address"
)

// known maps the addresses of the presets to their servers.
var known = sync.OnceValue(func() map[netip.Addr]Server {
	m := map[netip.Addr]Server{}
	for _, name := range address.Presets() {
		servers, err := address.Parse(name)
		if err != nil {
			panic(err) // a test reads all presets
		}
		for _, s := range servers {
			for _, a := range s.Addrs() {
				m[a.Addr()] = Server{Addr: a, Name: s.Name}
			}
		}
	}
	return m
})

// Known returns the server with DNS over TLS of a public resolver, at the very address at which the
// resolver answers plain DNS. It reports false for other addresses.
func Known(nameserver netip.Addr) (Server, bool) {
	s, ok := known()[nameserver.Unmap()]
	return s, ok
}
