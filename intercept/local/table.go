// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Flags of an entry; LOCAL_* in bpf/local.h.
const (
	flagOwn    = 1
	flagInside = 2
)

// key is struct local_key in bpf/local.h: a prefix of an address, with IPv4 mapped.
type key struct {
	Bits uint32
	Addr [16]byte
}

func keyOf(p netip.Prefix) key {
	bits := p.Bits() + 128 - p.Addr().BitLen()
	return key{uint32(bits), p.Addr().As16()}
}

// Sync makes the map m equal to the addresses.
func (a *Addresses) Sync(m *ebpf.Map) error {
	have := make(map[key]uint32)
	var k key
	var flags uint32
	it := m.Iterate()
	for it.Next(&k, &flags) {
		have[k] = flags
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list local addresses: %w", err)
	}
	if maps.Equal(have, a.entries) {
		return nil
	}
	var errs []error
	for k := range have {
		if _, ok := a.entries[k]; ok {
			continue
		}
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("remove a local address: %w", err))
		}
	}
	for k, flags := range a.entries {
		if old, ok := have[k]; ok && old == flags {
			continue
		}
		if err := m.Put(k, flags); err != nil {
			errs = append(errs, fmt.Errorf("add the local address %s: %w", netip.AddrFrom16(k.Addr).Unmap(), err))
		}
	}
	return errors.Join(errs...)
}
