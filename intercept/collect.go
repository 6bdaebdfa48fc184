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

	"sotto/bpf"
)

const (
	// collectEvery is the pause between two collections. A slot idles for a minute
	// before it is collected, so nothing is won by looking more often,
	collectEvery = 10 * time.Second

	// unless a workload was refused a slot, which is looked for this often.
	refusedEvery = time.Second

	// collectBatch is how many slots are read at once.
	collectBatch = 4096
)

// collectIdle collects until ctx ends. A failure is logged and tried again: the seal holds
// without it, until no slot is free.
func (i *Instance) collectIdle(ctx context.Context) error {
	tick, refused := time.NewTicker(min(collectEvery, i.cfg.Linger)), time.NewTicker(refusedEvery)
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
		if err := errors.Join(i.kernel.collect(i.cfg.Linger), i.forgetGone()); err != nil {
			i.cfg.Log.Warn("cannot collect idle slots", "err", err)
		}
	}
}

// refusals counts queries that were refused for want of a slot.
func (i *Instance) refusals() uint64 {
	n := i.Counters()
	return n["no_slot"] + n["over_quota"]
}

// slotState is a slot in use, as it was read without a lock.
type slotState struct {
	idx uint32
	bpf.SottoSlot
}

// collect frees slots that idle, and corrects the references of those whose sockets the
// kernel closed without running the release hook. It looks for both without any lock; the
// kernel decides for each once more, under the lock that a connect takes.
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

// recount lowers the references of slots to the number of their holders. A socket that
// takes or drops a reference meanwhile changes the slot's count of changes, and the slot is
// left for the next time.
func (k *kernel) recount(held []slotState) error {
	if len(held) == 0 || !canCountReferences() {
		return nil
	}
	holders, _, err := k.refs.tally(k.Connected, k.Replaced)
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
	keys, slots := make([]uint32, collectBatch), make([]bpf.SottoSlot, collectBatch)
	for {
		n, err := k.Slots.BatchLookup(&cursor, keys, slots, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // which is the end
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

// collectRequest is struct collect in bpf/collect.h, without the room for a frame.
type collectRequest struct{ Idx, Settle, Changes, Refs uint32 }

// collectSlot has the kernel free one slot, if it idles.
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
