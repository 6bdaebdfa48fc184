// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf/ringbuf"
)

// watchArrivals looks up the path of each cgroup that takes its first slot, while the cgroup
// exists: a socket can outlive it, and its queries are still that workload's. It returns nil
// when ctx ends.
func (i *Instance) watchArrivals(ctx context.Context) error {
	r, err := ringbuf.NewReader(i.kernel.Arrivals)
	if err != nil {
		return fmt.Errorf("watch for new workloads: %w", err)
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // ends a read that waits
	defer stop()
	for {
		record, err := r.Read()
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch for new workloads: %w", err)
		}
		if len(record.RawSample) == 8 {
			i.workloads.path(binary.NativeEndian.Uint64(record.RawSample))
		}
	}
}

// removedSuffix is behind the path of the nearest ancestor that exists, in place of what is
// not known of a removed cgroup.
const removedSuffix = "(removed)"

// Workload returns the path of a cgroup in the hierarchy, as /proc/PID/cgroup shows it.
// known is false for a cgroup that was removed before its path was looked up: path is then
// that of its nearest ancestor that is known, with "(removed)" below it.
func (i *Instance) Workload(cgroupID uint64) (path string, known bool) {
	if path = i.workloads.path(cgroupID); path != "" {
		return path, true
	}
	for id, level := i.kernel.parent(cgroupID), 0; id != 0 && level < maxLevel; level++ {
		if path := i.workloads.path(id); path != "" {
			return filepath.Join(path, removedSuffix), false
		}
		id = i.kernel.parent(id)
	}
	return "/" + removedSuffix, false
}
