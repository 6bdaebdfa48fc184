// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"sync"
	"time"
)

// call is one query that waits for its reply. Its query belongs to the caller of
// Exchange and is referred to only while the call is in a table.
type call struct {
	query []byte
	reply []byte
	err   error
	done  chan struct{} // gets one value when reply or err is set
	timer *time.Timer
}

// calls are reused: a miss then costs no channel and no timer.
var calls = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &call{done: make(chan struct{}, 1), timer: t}
}}

// finish hands the call its result. Whoever took it out of the table calls it,
// once.
func (k *call) finish(reply []byte, err error) {
	k.reply, k.err = reply, err
	k.done <- struct{}{}
}

// release gives the call back for reuse. Nobody else may know it any more.
func (k *call) release() {
	k.timer.Stop()
	k.query, k.reply, k.err = nil, nil, nil
	calls.Put(k)
}

// inflight is the table of queries in flight on one connection. Its IDs are
// random, so that a reply cannot be forged by someone who only sees how many
// queries go by, and none is used twice at a time.
type inflight struct {
	calls map[uint16]*call
	ids   *mrand.ChaCha8
	max   int
}

func newInflight(limit int) inflight {
	var seed [32]byte
	rand.Read(seed[:]) //nolint:errcheck // never fails since Go 1.24
	return inflight{calls: make(map[uint16]*call), ids: mrand.NewChaCha8(seed), max: limit}
}

// add enters k and returns its ID. Not ok: the table is full.
func (t *inflight) add(k *call) (id uint16, ok bool) {
	if len(t.calls) >= t.max {
		return 0, false
	}
	// The limit leaves most IDs free, so that few tries are needed.
	for {
		id = uint16(t.ids.Uint64())
		if _, taken := t.calls[id]; !taken {
			t.calls[id] = k
			return id, true
		}
	}
}

// get returns the call with that ID, nil if there is none.
func (t *inflight) get(id uint16) *call { return t.calls[id] }

// remove takes k out, and reports whether it was still in.
func (t *inflight) remove(id uint16, k *call) bool {
	if t.calls[id] != k {
		return false
	}
	delete(t.calls, id)
	return true
}

// drain takes all out.
func (t *inflight) drain() []*call {
	out := make([]*call, 0, len(t.calls))
	for _, k := range t.calls {
		out = append(out, k)
	}
	clear(t.calls)
	return out
}

func (t *inflight) len() int { return len(t.calls) }
