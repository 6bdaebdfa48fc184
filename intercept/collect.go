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

// collectEvery is the pause between two collections. A slot idles for a minute
// before it is collected, so nothing is won by looking more often.
const collectEvery = 10 * time.Second

// collectBatch is how many slots are read at once.
const collectBatch = 4096

// collectIdle collects until ctx ends. A failure is told and tried again: the
// seal holds without it, until no slot is free.
func (i *Instance) collectIdle(ctx context.Context) error {
	tick := time.NewTicker(min(collectEvery, i.cfg.Linger))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := errors.Join(i.kernel.collect(i.cfg.Linger), i.forgetGone()); err != nil {
			i.cfg.Log.Warn("cannot collect idle slots", "err", err)
		}
	}
}

// collect frees slots that idle. It looks for them without any lock; the kernel
// decides for each once more, under the lock that a connect takes.
func (k *kernel) collect(linger time.Duration) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	idle := func(s *bpf.SottoSlot) bool {
		return s.Used != 0 && s.Refs == 0 && (s.LastSend == 0 || now.Nano()-int64(s.LastSend) >= int64(linger))
	}
	var cursor ebpf.MapBatchCursor
	keys, slots := make([]uint32, collectBatch), make([]bpf.SottoSlot, collectBatch)
	for {
		n, err := k.Slots.BatchLookup(&cursor, keys, slots, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // which is the end
			return fmt.Errorf("read slots: %w", err)
		}
		for at := range slots[:n] {
			if !idle(&slots[at]) {
				continue
			}
			if err := k.collectSlot(keys[at]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// collectSlot has the kernel free one slot, if it still idles.
func (k *kernel) collectSlot(idx uint32) error {
	packet := make([]byte, 24) // struct collect in bpf/sotto.c
	binary.NativeEndian.PutUint32(packet[16:], idx)
	if _, err := k.SottoCollect.Run(&ebpf.RunOptions{Data: packet}); err != nil {
		return fmt.Errorf("collect slot %d: %w", idx, err)
	}
	return nil
}

// forgetGone forgets cgroups that are gone: those excluded, and the count of those
// that hold no slot any more. Nobody can take a slot for a cgroup that is gone, so
// nobody counts meanwhile.
func (i *Instance) forgetGone() error {
	var errs []error
	var id, held uint64
	var gone []uint64
	it := i.kernel.Quota.Iterate()
	for it.Next(&id, &held) {
		if held == 0 && i.workloads.gone(id) {
			gone = append(gone, id)
		}
	}
	// Entries made meanwhile may cut an iteration short; the next one sees them.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		errs = append(errs, fmt.Errorf("list slots by cgroup: %w", err))
	}
	for _, id := range gone {
		if err := i.kernel.Quota.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget cgroup %d: %w", id, err))
		}
	}
	return errors.Join(append(errs, i.pruneExclusion())...)
}
