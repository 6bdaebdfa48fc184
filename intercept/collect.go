// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// collectEvery is the pause between two collections. A slot idles for a minute
// before it is collected, so nothing is won by looking more often.
const collectEvery = 10 * time.Second

// collectRound is COLLECT_ROUND in bpf/sotto.c: slots looked at in one run.
const collectRound = 256

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
		if err := errors.Join(i.kernel.collect(), i.forgetGone()); err != nil {
			i.cfg.Log.Warn("cannot collect idle slots", "err", err)
		}
	}
}

// collect frees slots that idle. The kernel decides, under the lock that a connect
// takes: user space could not without a race. Programs made for being called need
// Linux 5.14, so this is a packet program that is given a packet.
func (k *kernel) collect() error {
	// 16 bytes in place of an Ethernet header, which the kernel wants to see; then
	// struct collect's start and padding.
	packet := make([]byte, 24)
	for start := uint32(0); start < k.count; start += collectRound {
		binary.NativeEndian.PutUint32(packet[16:], start)
		if _, err := k.SottoCollect.Run(&ebpf.RunOptions{Data: packet}); err != nil {
			return fmt.Errorf("collect slots from %d: %w", start, err)
		}
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
