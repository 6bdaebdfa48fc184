// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

const (
	bucketBytes = int64(unsafe.Sizeof(hitsHitBucket{}))
	shortBytes  = int64(unsafe.Sizeof(hitsShortHit{}))
	longBytes   = int64(unsafe.Sizeof(hitsLongHit{}))
	slotBytes   = int64(unsafe.Sizeof(hitsHitSlot{}))
)

// verdictNames are the names of enum hit_verdict in bpf/hits.h.
var verdictNames = [hitsHitVerdictHIT_VERDICTS]string{
	hitsHitVerdictHIT_ANSWERED:   "answered",
	hitsHitVerdictHIT_NO_CLASS:   "no_class",
	hitsHitVerdictHIT_UNUSUAL:    "unusual",
	hitsHitVerdictHIT_UNKNOWN:    "unknown",
	hitsHitVerdictHIT_EXPIRING:   "expiring",
	hitsHitVerdictHIT_TOO_LARGE:  "too_large",
	hitsHitVerdictHIT_BUSY:       "busy",
	hitsHitVerdictHIT_NO_MEMORY:  "no_memory",
	hitsHitVerdictHIT_LOST:       "lost",
	hitsHitVerdictHIT_EVENT_LOST: "event_lost",
}

// verdicts reads the counters of verdicts.
func (t *Table) verdicts() (map[string]uint64, error) {
	out := make(map[string]uint64, len(verdictNames))
	for at, name := range verdictNames {
		n, err := t.verdict(hitsHitVerdict(at))
		if err != nil {
			return out, err
		}
		out[name] = n
	}
	return out, nil
}

func (t *Table) verdict(v hitsHitVerdict) (n uint64, err error) {
	var perCPU []uint64
	if err := t.objects.HitCounters.Lookup(uint32(v), &perCPU); err != nil {
		return 0, fmt.Errorf("read the counters of the answers in the kernel: %w", err)
	}
	for _, c := range perCPU {
		n += c
	}
	return n, nil
}

// Lost returns how many events of traces were lost.
func (t *Table) Lost() (uint64, error) { return t.verdict(hitsHitVerdictHIT_EVENT_LOST) }

// Replies are the replies to the queries of one slot, by response code.
type Replies struct{ NoError, NXDomain uint64 }

// Replies returns the replies to the queries of a slot since the maps were made.
func (t *Table) Replies(slot uint32) Replies {
	if int(slot) >= len(t.mem.slots) {
		return Replies{}
	}
	s := &t.mem.slots[slot]
	return Replies{atomic.LoadUint64(&s.Noerror), atomic.LoadUint64(&s.Nxdomain)}
}

// Trace makes the program write an event for each reply, or ends that.
func (t *Table) Trace(on bool) {
	v := uint64(0)
	if on {
		v = 1
	}
	atomic.StoreUint64(&t.mem.control.Traced, v)
}
