// SPDX-License-Identifier: Apache-2.0

package historytest

import (
	"net/netip"
	"time"
)

// Subject opens the instances that a history tests.
type Subject struct {
	// Open opens an instance. The calling thread is in the network namespace of the host.
	Open func(Settings) (Instance, error)

	// Down removes the leftovers of dead instances. The calling thread is in the network
	// namespace of the host.
	Down func() error

	// NoRecount is set where the kernel cannot count the sockets that hold a slot. MPTCP is
	// left out then, because its subflows would keep their slots.
	NoRecount bool
}

// Settings are the settings of an instance that histories change.
type Settings struct {
	Cgroups          []string
	Prefix4, Prefix6 netip.Prefix
	Linger           time.Duration
}

// Instance is an open instance, with access to its state in the kernel.
type Instance interface {
	Attach() error
	Detach() error
	Close() error
	Abandon() error
	Release() error
	Reclaim() error
	Do(fn func() error) error
	Workload(cgroupID uint64) (path string, known bool)

	// OriginOf returns what a virtual address stands for.
	OriginOf(local netip.Addr) (o Origin, ok bool)

	// Adopted reports whether the instance has adopted the maps of an earlier one.
	Adopted() bool

	// Collect frees what is not in use, as a running instance does periodically.
	Collect() error

	// Slot returns the state of a slot.
	Slot(idx uint32) (used bool, refs uint32)

	// SlotsUsed returns the number of slots in use, and of references to them.
	SlotsUsed() (used, refs int, err error)

	// TakeFreeSlot takes a slot from the queue of free ones. It returns false if that is
	// empty. PutFreeSlot puts one into the queue.
	TakeFreeSlot() (idx uint32, ok bool)
	PutFreeSlot(idx uint32) error

	// CheckUnused returns an error if slots are counted for a cgroup, or if a hint to a slot is
	// left.
	CheckUnused() error
}

// Origin is the original destination of a query, and the cgroup of the client.
type Origin struct {
	Addr     netip.AddrPort
	CgroupID uint64
}
