// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"

	"sotto/intercept/hits"
	"sotto/intercept/network"
	"sotto/intercept/pins"
)

// Hits describes how the kernel answers cached queries. Its functions are called from Run, and
// Replies also from [Instance.CountHits]. Replies must not call methods of the instance.
type Hits struct {
	// Entries is the number of answers, see [hits.Config].
	Entries int

	// Started is called when the process has become the one that decides what the kernel
	// answers: it answers nothing yet, and no class is valid.
	Started func()

	// Classify returns the class of a slot, which has the virtual address, and its workload.
	// Slots of a class get the same answers. Class 0: none from the kernel.
	Classify func(virtual netip.Addr) (class uint32, workload string)

	// Replies is called with the replies to a workload since the last call.
	Replies func(workload string, n hits.Replies)

	// Evicted is called with the tag of an answer that was removed for others.
	Evicted func(tag []byte)

	// Used is called with the tag of an answer, and how often it was given.
	Used func(tag []byte, n uint64)

	// Reply is called for each reply during a trace.
	Reply func(HitReply)
}

// HitReply is one reply of the kernel.
type HitReply struct {
	hits.Event
	Virtual netip.Addr // where the query was sent
	At      time.Time  // when the reply was ready
}

// hitState is the state of an instance's answers in the kernel.
type hitState struct {
	table  *hits.Table // nil: there are none
	reason string      // why

	mu    sync.Mutex
	slots map[uint32]*classified
}

// classified is a slot that was classified. It may have another meaning now.
type classified struct {
	virtual  netip.Addr
	origin   uint32 // generation
	class    uint32
	workload string
	counted  hits.Replies
}

// openHits loads the program. A failure only means that the kernel does not answer.
func (i *Instance) openHits() {
	s := &i.hits
	dir := pins.Dir(i.cfg.BPFFS, i.cfg.Name)
	var err error
	switch {
	case i.cfg.Hits == nil:
		s.reason = "kernel-answers = \"off\""
	case i.cfg.Guard == GuardOff:
		s.reason = "guard = \"off\": no program is attached to an interface"
	default:
		s.table, err = hits.Open(hits.Config{
			Prefixes: prefixesOf(&i.cfg), ListenerPort: htons(listenerPort), Slots: i.kernel.count,
			Host: [6]byte(network.MACHost), Inner: [6]byte(network.MACInner), Tag: i.kernel.tag,
			Origins: i.kernel.Origins, Daemon: i.kernel.Daemon, PinDir: dir, Entries: i.cfg.Hits.Entries, Evicted: i.cfg.Hits.Evicted,
		})
		if err == nil {
			return
		}
		s.reason = fmt.Sprintf("this kernel does not load the program: %v", err)
		i.cfg.Log.Info("cached queries are not answered in the kernel", "err", err)
	}
	if err := hits.RemovePins(dir); err != nil {
		i.cfg.Log.Warn("cannot remove the answers of an earlier process from the kernel", "err", err)
	}
}

// hitProgram returns the program, or nil.
func (i *Instance) hitProgram() *ebpf.Program {
	if i.hits.table == nil {
		return nil
	}
	return i.hits.table.Program()
}

// pinHits pins the maps again.
func (i *Instance) pinHits() error {
	if i.hits.table == nil {
		return nil
	}
	return i.hits.table.Pin()
}

// startHits makes this process the one that decides what the kernel answers. After a failure the
// kernel answers nothing.
func (i *Instance) startHits() {
	s := &i.hits
	if s.table == nil {
		return
	}
	s.mu.Lock()
	s.slots = make(map[uint32]*classified)
	s.mu.Unlock()
	if err := s.table.Start(); err != nil {
		i.cfg.Log.Warn("cached queries are not answered in the kernel", "err", err)
		return
	}
	i.cfg.Hits.Started()
}

// HitClass returns the class of the slot with a virtual address, 0 for none. It makes no system
// call and takes no lock.
func (i *Instance) HitClass(local netip.Addr) uint32 {
	slot, ok := i.origins.index(local)
	if !ok || i.hits.table == nil {
		return 0
	}
	return i.hits.table.Class(slot)
}

// Hits returns the table of the answers in the kernel. It is nil if there is none, and reason says
// why.
func (i *Instance) Hits() (t *hits.Table, reason string) { return i.hits.table, i.hits.reason }

// sweepInterval is how often unused and expired answers are removed, and replies counted.
const sweepInterval = time.Second

// runHits classifies slots, counts replies and reports them until ctx ends. Then it returns nil.
func (i *Instance) runHits(ctx context.Context) error {
	if i.hits.table == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return readRing(ctx, i.hits.table.Wanted(), func(b []byte) {
			if len(b) == 4 {
				i.classify(binary.NativeEndian.Uint32(b))
			}
		})
	})
	g.Go(func() error {
		return readRing(ctx, i.hits.table.Events(), func(b []byte) {
			if e, err := hits.Decode(b); err == nil && i.cfg.Hits.Reply != nil {
				i.cfg.Hits.Reply(HitReply{Event: e, Virtual: i.origins.address(e.Slot, e.IPv6), At: wallTime(e.Time + e.Took)})
			}
		})
	})
	g.Go(func() error {
		tick := time.NewTicker(sweepInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			i.hits.table.Sweep(i.cfg.Hits.Used)
			i.CountHits()
			i.classifyAgain()
		}
	})
	return g.Wait()
}

// A flood of queries must not take a processor from those who answer: after a batch, records wait for
// a moment. A slot asks for a class once, and those that do not fit into the buffer ask again.
const (
	ringBatch = 256
	ringPause = 20 * time.Millisecond
)

// readRing calls handle for each record of a ring buffer until ctx ends.
func readRing(ctx context.Context, m *ebpf.Map, handle func([]byte)) error {
	r, err := ringbuf.NewReader(m)
	if err != nil {
		return fmt.Errorf("read what the kernel answers: %w", err)
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // ends a blocked read
	defer stop()
	var record ringbuf.Record
	for n := 1; ; n++ {
		err := r.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what the kernel answers: %w", err)
		}
		handle(record.RawSample)
		if n%ringBatch != 0 {
			continue
		}
		select {
		case <-time.After(ringPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// classify gives a slot the class that it has now.
func (i *Instance) classify(slot uint32) {
	if slot < network.FirstSlot || slot >= i.origins.count {
		return
	}
	words, ok := i.origins.read(slot)
	if !ok {
		return // it gets another meaning now
	}
	n := &classified{origin: uint32(words[4]), virtual: i.origins.address(slot, !isMapped(words))}
	n.class, n.workload = i.cfg.Hits.Classify(n.virtual)
	s := &i.hits
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots == nil {
		return // asked of an earlier process; the slot asks again after startHits
	}
	// Replies until now were for the workload of before: a slot without a valid class gets none.
	i.countSlot(slot, s.slots[slot])
	n.counted = s.table.Replies(slot)
	s.slots[slot] = n
	s.table.SetClass(slot, n.origin, n.class)
}

// classifyAgain corrects the classes of slots that changed although the rules did not: the owner of
// a network namespace has become known, or a nameserver is on this machine now.
func (i *Instance) classifyAgain() {
	s := &i.hits
	s.mu.Lock()
	all := make(map[uint32]*classified, len(s.slots))
	for slot, c := range s.slots {
		all[slot] = c
	}
	s.mu.Unlock()
	for slot, c := range all {
		words, ok := i.origins.read(slot)
		if !ok || uint32(words[4]) != c.origin {
			continue
		}
		if class, workload := i.cfg.Hits.Classify(c.virtual); class != c.class || workload != c.workload {
			i.classify(slot)
		}
	}
}

// CountHits reports replies that were not reported yet, by workload.
func (i *Instance) CountHits() {
	s := &i.hits
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot, c := range s.slots {
		i.countSlot(slot, c)
	}
}

// countSlot reports the replies of a slot. s.mu is held.
func (i *Instance) countSlot(slot uint32, c *classified) {
	if c == nil {
		return
	}
	now := i.hits.table.Replies(slot)
	if n := (hits.Replies{NoError: now.NoError - c.counted.NoError, NXDomain: now.NXDomain - c.counted.NXDomain}); n != (hits.Replies{}) {
		i.cfg.Hits.Replies(c.workload, n)
	}
	c.counted = now
}

// traceHits starts or ends the events of replies.
func (i *Instance) traceHits(on bool) {
	if i.hits.table != nil {
		i.hits.table.Trace(on)
	}
}

// isMapped reports whether the address of an origin is an IPv4 address.
func isMapped(words originWords) bool {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:], words[0])
	binary.NativeEndian.PutUint64(b[8:], words[1])
	return netip.AddrFrom16(b).Is4In6()
}

// address returns a virtual address of a slot.
func (o *origins) address(slot uint32, is6 bool) netip.Addr {
	if !is6 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], o.base4+slot)
		return netip.AddrFrom4(b)
	}
	b := o.base6.As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+slot)
	return netip.AddrFrom16(b)
}
