// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/intercept/network"
)

// Origin is the original destination of a query, and the cgroup of the client.
type Origin struct {
	Addr     netip.AddrPort
	CgroupID uint64

	// Netns identifies the network namespace of the client: the low half of its cookie, or 0
	// for the host's. Before Linux 5.14 it is always 0.
	Netns uint32
}

// Origin returns the original destination that a virtual address stands for, or last stood
// for. It makes no system call and takes no lock.
func (i *Instance) Origin(local netip.Addr) (Origin, bool) { return i.origins.find(local) }

// origins maps virtual addresses to original destinations. It is a BPF map that the programs
// write, mapped into memory.
type origins struct {
	mem    []byte
	base4  uint32
	base6  netip.Addr
	count  uint32
	prefix netip.Prefix // addresses with the first 96 bits of base6
}

// newOrigins maps m into memory. It is unmapped when the result is garbage collected, not in
// Close: a listener that drains may still look up addresses, and must not fault.
func newOrigins(cfg *Config, m *ebpf.Map) (*origins, error) {
	o := &origins{base4: prefixesOf(cfg).Base4, base6: cfg.Prefix6.Addr(), count: cfg.slotCount()}
	o.prefix = netip.PrefixFrom(o.base6, 96)
	page := os.Getpagesize()
	size := (int(o.count)*originSize + page - 1) / page * page
	var err error
	if o.mem, err = unix.Mmap(m.FD(), 0, size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the slots into memory: %w", err)
	}
	runtime.AddCleanup(o, func(mem []byte) { _ = unix.Munmap(mem) }, o.mem)
	return o, nil
}

// originSize is the size of struct origin in bpf/slots.h. It is a multiple of eight bytes, so
// array entries have no padding between them.
const originSize = int(unsafe.Sizeof(sottoOrigin{}))

// originWords is struct origin in words of eight bytes: two for the address; the port, padding
// and the network namespace; the cgroup; the generation with padding.
type originWords [5]uint64

// A compile error here means that struct origin changed.
var _ = [1]struct{}{}[originSize-int(unsafe.Sizeof(originWords{}))]

func (o *origins) find(local netip.Addr) (Origin, bool) {
	idx, ok := o.index(local)
	if !ok {
		return Origin{}, false
	}
	words, ok := o.read(idx)
	// Restore the layout in memory.
	var b [8 * 4]byte
	for at, w := range words[:4] {
		binary.NativeEndian.PutUint64(b[8*at:], w)
	}
	runtime.KeepAlive(o)
	port := binary.BigEndian.Uint16(b[16:])
	addr := netip.AddrFrom16([16]byte(b[:16])).Unmap()
	if !ok || port == 0 || addr.Is4() != local.Unmap().Is4() {
		return Origin{}, false
	}
	return Origin{Addr: netip.AddrPortFrom(addr, port), CgroupID: words[3], Netns: binary.NativeEndian.Uint32(b[20:])}, true
}

// index returns the slot of a virtual address.
func (o *origins) index(local netip.Addr) (uint32, bool) {
	var idx uint32
	if local = local.Unmap(); local.Is4() {
		b := local.As4()
		idx = binary.BigEndian.Uint32(b[:]) - o.base4
	} else {
		if !o.prefix.Contains(local.WithZone("")) {
			return 0, false
		}
		b, base := local.As16(), o.base6.As16()
		idx = binary.BigEndian.Uint32(b[12:]) - binary.BigEndian.Uint32(base[12:])
	}
	return idx, idx >= network.FirstSlot && idx < o.count
}

// maxReads limits the attempts to read a consistent entry. Writing one takes less than a
// microsecond, and happens once in minutes.
const maxReads = 64

// read copies the entry of a slot; the last word is its generation. The generation is odd while a program writes the entry,
// and different afterwards; see slot_fill in bpf/slots.h.
func (o *origins) read(idx uint32) (words originWords, ok bool) {
	entry := (*originWords)(unsafe.Pointer(&o.mem[int(idx)*originSize]))
	generation := (*uint32)(unsafe.Pointer(&entry[4]))
	for range maxReads {
		before := atomic.LoadUint32(generation)
		for i := range entry[:4] {
			words[i] = atomic.LoadUint64(&entry[i])
		}
		if before&1 == 0 && atomic.LoadUint32(generation) == before {
			words[4] = uint64(before)
			return words, true
		}
	}
	return words, false
}
