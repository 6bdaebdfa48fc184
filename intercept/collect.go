// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/intercept/references"
)

const (
	// collectInterval is the time between two collections. A slot is idle for a minute before
	// it is collected, so shorter intervals would not free more slots.
	collectInterval = 10 * time.Second

	// refusedInterval is the time between two checks for refused queries. A workload that was
	// refused a slot causes a collection.
	refusedInterval = time.Second

	// collectBatch is the number of slots that are read at once.
	collectBatch = 4096
)

// collectIdle collects idle slots until ctx ends, then it returns nil. It logs failures and
// retries: the seal works without collection until no slot is free.
func (i *Instance) collectIdle(ctx context.Context) error {
	tick, refused := time.NewTicker(min(collectInterval, i.cfg.Linger)), time.NewTicker(refusedInterval)
	defer tick.Stop()
	defer refused.Stop()
	last := i.refusals()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-refused.C:
			now := i.refusals()
			if now == last {
				continue
			}
			last = now
		}
		if err := errors.Join(i.kernel.collect(i.cfg.Linger), i.forgetRemoved()); err != nil {
			i.cfg.Log.Warn("cannot collect idle slots", "err", err)
		}
	}
}

// refusals returns how many queries were refused because no slot was available.
func (i *Instance) refusals() uint64 {
	n := i.Counters()
	return n["no_slot"] + n["over_quota"]
}

// slotState is a slot as read without a lock.
type slotState struct {
	idx uint32
	sottoSlot
}

// collect frees idle slots, and corrects the reference counts of slots whose sockets the
// kernel closed without running the release hook. It finds both without a lock; the BPF
// program checks each again, under the lock that a connect takes.
func (k *kernel) collect(linger time.Duration) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	var idle, held []slotState
	err := k.eachSlot(func(s slotState) {
		switch {
		case s.Used == 0:
		case s.Refs > 0:
			held = append(held, s)
		case s.LastSend == 0 || now.Nano()-int64(s.LastSend) >= int64(linger):
			idle = append(idle, s)
		}
	})
	if err != nil {
		return err
	}
	for _, s := range idle {
		if err := k.collectSlot(collectRequest{Idx: s.idx}); err != nil {
			return err
		}
	}
	return k.recount(held)
}

// recount lowers the reference counts of slots to the number of sockets that hold them. If a
// socket acquires or releases a reference meanwhile, the slot's number of changes differs,
// and the slot is left for the next time.
func (k *kernel) recount(held []slotState) error {
	if len(held) == 0 {
		return nil
	}
	holders, _, err := k.refs.Count(k.Connected, k.Replaced)
	if errors.Is(err, references.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range held {
		if n := holders[s.idx]; n < s.Refs {
			if err := k.collectSlot(collectRequest{Idx: s.idx, Settle: 1, Changes: s.Changes, Refs: n}); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachSlot reads all slots.
func (k *kernel) eachSlot(visit func(slotState)) error {
	var cursor ebpf.MapBatchCursor
	keys, slots := make([]uint32, collectBatch), make([]sottoSlot, collectBatch)
	for {
		n, err := k.Slots.BatchLookup(&cursor, keys, slots, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // the end of the map
			return fmt.Errorf("read slots: %w", err)
		}
		for at := range slots[:n] {
			visit(slotState{keys[at], slots[at]})
		}
		if err != nil {
			return nil
		}
	}
}

// collectRequest is struct collect in bpf/collect.h, without the leading space for a frame
// header.
type collectRequest struct{ Idx, Settle, Changes, Refs uint32 }

// collectSlot runs the BPF program that frees one slot, if it is idle.
func (k *kernel) collectSlot(r collectRequest) error {
	packet, err := binary.Append(make([]byte, 16), binary.NativeEndian, r)
	if err != nil {
		return err
	}
	if _, err := k.SottoCollect.Run(&ebpf.RunOptions{Data: packet}); err != nil {
		return fmt.Errorf("collect slot %d: %w", r.Idx, err)
	}
	return nil
}
