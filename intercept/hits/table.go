// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Table holds the entries of one instance. Its methods may be called concurrently.
type Table struct {
	cfg     Config
	objects hitsObjects
	mem     *memory

	mu       sync.Mutex
	writable bool
	next     uint32 // class
	index    map[hitsHitKey]uint32
	used     [2]pool // short and long entries
	retired  map[uint32]bool
	evicted  uint64
}

// pool is the state of the entries of one length.
type pool struct {
	free []uint32
	meta []meta
}

// meta is the state of an entry in user space.
type meta struct {
	inUse  bool
	tag    []byte
	seen   uint64 // count, when it was last read
	recent uint64 // uses, halved with each reading
}

// Now returns the time of the clock that the program reads: CLOCK_BOOTTIME, which runs during a
// suspend.
func Now() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // not possible: the clock exists since Linux 2.6.39
	}
	return time.Duration(now.Nano())
}

// Program is to be attached to egress of the host's interface of the veth pair.
func (t *Table) Program() *ebpf.Program { return t.objects.SottoAnswer }

// Events is the ring buffer of the events of a trace, see [Decode]. Wanted is that of the slots
// that need a class, as numbers of four bytes.
func (t *Table) Events() *ebpf.Map { return t.objects.HitEvents }

// Wanted is described at Events.
func (t *Table) Wanted() *ebpf.Map { return t.objects.HitWanted }

// Start removes all entries, and makes the calling process the one that writes.
func (t *Table) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.mem.control
	t.next = uint32(max(c.FirstClass, 1)) // may be that of another process: see Invalidate
	t.invalidate(true)
	t.index = make(map[hitsHitKey]uint32)
	clear(t.retired)
	for i := range t.mem.index {
		for way := range t.mem.index[i].Way {
			atomic.StoreUint64(&t.mem.index[i].Way[way], 0)
		}
	}
	t.wait()
	for i, n := range [2]int{len(t.mem.short), len(t.mem.long)} {
		p := &t.used[i]
		p.meta = make([]meta, n)
		p.free = p.free[:0]
		for at := n - 1; at >= 0; at-- {
			p.free = append(p.free, uint32(at))
		}
	}
	t.writable = true
	return nil
}

// Stop makes Store do nothing from now on, because another process is about to call Start. The
// kernel continues to give what it has.
func (t *Table) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writable = false
}

// Generation returns the generation in force. An answer is stored with the generation that was
// in force before it was looked up.
func (t *Table) Generation() uint64 { return atomic.LoadUint64(&t.mem.control.Generation) }

// Invalidate ends the validity of all entries, and with reclassify that of all classes, because
// the rules have changed. When it returns, no program gives an answer from before. Before Start it
// does nothing. After Stop it still ends the validity of all entries, whichever process stored them.
func (t *Table) Invalidate(reclassify bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.index == nil {
		return
	}
	t.invalidate(reclassify && t.writable)
	t.wait()
}

func (t *Table) invalidate(reclassify bool) {
	c := t.mem.control
	if reclassify {
		// Classes are never used again, not even by another process.
		t.next = max(t.next, uint32(c.FirstClass)+maxClasses)
		atomic.StoreUint64(&c.FirstClass, uint64(t.next))
	}
	atomic.AddUint64(&c.Generation, 1)
}

// maxClasses is the number of classes of one set of rules. Slots beyond have none.
const maxClasses = 1 << 12

// NewClass returns a class that was never used before, or 0 if there is none left for the rules in
// force. It is valid until [Table.Invalidate] ends that of all classes.
func (t *Table) NewClass() uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.writable || t.next >= uint32(t.mem.control.FirstClass)+maxClasses {
		return 0
	}
	t.next++
	return t.next - 1
}

// SetClass sets the class of a slot, 0 for none, as long as its origin has that generation.
func (t *Table) SetClass(slot, origin, class uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writable && int(slot) < len(t.mem.slots) {
		atomic.StoreUint64(&t.mem.slots[slot].Class, uint64(origin)<<32|uint64(class))
	}
}

// Class returns the class that was set for a slot, 0 for none. The slot may have another meaning
// now.
func (t *Table) Class(slot uint32) uint32 {
	if int(slot) >= len(t.mem.slots) {
		return 0
	}
	class := uint32(atomic.LoadUint64(&t.mem.slots[slot].Class))
	if uint64(class) < atomic.LoadUint64(&t.mem.control.FirstClass) {
		return 0 // of earlier rules
	}
	return class
}

// Store stores an answer that was looked up while generation was in force. It reports false if
// the answer does not fit, or is not valid any more.
func (t *Table) Store(a *Answer, generation uint64) bool {
	key, ok := a.key()
	if !ok {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.writable || generation != t.Generation() {
		return false
	}
	long := 0
	if a.isLong() {
		long = 1
	}
	at, ok := t.take(long)
	if !ok {
		return false
	}
	id := at
	if long == 1 {
		id |= isLong
		e := &t.mem.long[at]
		a.encode(&e.Head, e.Rest[:], &key, generation)
	} else {
		e := &t.mem.short[at]
		a.encode(&e.Head, e.Rest[:], &key, generation)
	}
	t.used[long].meta[at] = meta{inUse: true, tag: a.Tag, recent: 1}
	t.insert(&key, id)
	return true
}

// head returns the entry with an index.
func (t *Table) head(id uint32) *hitsHit {
	if id&isLong != 0 {
		return &t.mem.long[id&^isLong].Head
	}
	return &t.mem.short[id].Head
}

// poolOf returns the pool of an entry, and its index there.
func (t *Table) poolOf(id uint32) (*pool, uint32) {
	if id&isLong != 0 {
		return &t.used[1], id &^ isLong
	}
	return &t.used[0], id
}

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL.
const membarrierGlobal = 1

// wait returns when every program has ended that was running when it was called: it waits for a
// grace period of RCU (membarrier(2)). Where that call is not permitted it waits longer than any
// program takes.
func (t *Table) wait() {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	if errno != 0 {
		time.Sleep(100 * time.Millisecond)
	}
}

// Close releases the descriptors. The program and its maps stay as long as they are pinned or
// attached.
func (t *Table) Close() error {
	t.Stop()
	return t.objects.Close()
}
