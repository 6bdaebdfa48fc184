// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/cilium/ebpf"

	"sotto/intercept/network"
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

// entries returns the entries of the map: each of the host's addresses, and the networks on
// internal links.
func entries(addrs []network.Address, inside map[int]bool) map[key]uint32 {
	out := make(map[key]uint32)
	for _, a := range addrs {
		flags := uint32(flagOwn)
		if inside[a.Link] {
			flags |= flagInside
			if net := a.Prefix.Masked(); !net.IsSingleIP() && !net.Addr().IsLinkLocalUnicast() {
				out[keyOf(net)] |= flagInside
			}
		}
		if !a.Prefix.Addr().IsLinkLocalUnicast() { // the same address may exist on every link
			out[keyOf(netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()))] |= flags
		}
	}
	return out
}

// Table writes the map of local addresses. It may be used by one goroutine at a time.
type Table struct {
	m *ebpf.Map
}

// NewTable returns a table that writes m. The caller closes m.
func NewTable(m *ebpf.Map) *Table { return &Table{m} }

// Sync makes the map equal to the host's addresses. inside contains the indices of internal
// links.
func (t *Table) Sync(addrs []network.Address, inside map[int]bool) error {
	want := entries(addrs, inside)
	have, err := t.read()
	if err != nil {
		return err
	}
	if maps.Equal(have, want) {
		return nil
	}
	var errs []error
	for k := range have {
		if _, ok := want[k]; !ok {
			if err := t.m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("remove a local address: %w", err))
			}
		}
	}
	for k, flags := range want {
		if old, ok := have[k]; ok && old == flags {
			continue
		}
		if err := t.m.Put(k, flags); err != nil {
			errs = append(errs, fmt.Errorf("add the local address %s: %w", netip.AddrFrom16(k.Addr).Unmap(), err))
		}
	}
	return errors.Join(errs...)
}

func (t *Table) read() (map[key]uint32, error) {
	have := make(map[key]uint32)
	var k key
	var flags uint32
	it := t.m.Iterate()
	for it.Next(&k, &flags) {
		have[k] = flags
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list local addresses: %w", err)
	}
	return have, nil
}

// Contains reports whether addr is in the map, or in a network of it.
func (t *Table) Contains(addr netip.Addr) bool {
	var flags uint32
	return t.m.Lookup(key{128, addr.As16()}, &flags) == nil
}
