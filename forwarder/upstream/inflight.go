// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"sync"
)

// call is one query that waits for its reply. Its query belongs to the caller of
// Exchange and is referred to only while the call is in a table.
type call struct {
	query []byte
	reply []byte
	err   error
	sent  int64         // when, in ticks
	done  chan struct{} // gets one value when reply or err is set
}

// calls are reused: a miss then costs no channel.
var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// finish hands the call its result. Whoever took it out of the table calls it,
// once.
func (k *call) finish(reply []byte, err error) {
	k.reply, k.err = reply, err
	k.done <- struct{}{}
}

// release gives the call back for reuse. Nobody else may know it any more.
func (k *call) release() {
	k.query, k.reply, k.err = nil, nil, nil
	calls.Put(k)
}

// inflight is the table of queries in flight on one connection. Its IDs are
// random, so that a reply cannot be forged by someone who only sees how many
// queries go by, and none is used twice at a time.
//
// It also remembers the latest queries that were given up: their replies, when
// they come, are no strays, and tell how slow the server is.
type inflight struct {
	calls map[uint16]*call
	gone  map[uint16]int64 // given up; when they were sent, in ticks
	ids   *mrand.ChaCha8
	max   int
}

// maxGone bounds what is remembered of queries that were given up. More than
// that many on one connection are rather lost than late.
const maxGone = 1024

func newInflight(limit int) inflight {
	var seed [32]byte
	rand.Read(seed[:]) //nolint:errcheck // never fails since Go 1.24
	return inflight{calls: make(map[uint16]*call), gone: make(map[uint16]int64), ids: mrand.NewChaCha8(seed), max: limit}
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
			delete(t.gone, id) // its reply would not be told from the new one's
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

// abandon takes k out, if it was still in, and remembers that its reply may come.
func (t *inflight) abandon(id uint16, k *call) bool {
	if !t.remove(id, k) {
		return false
	}
	if len(t.gone) >= maxGone {
		for old := range t.gone { // any
			delete(t.gone, old)
			break
		}
	}
	t.gone[id] = k.sent
	return true
}

// late reports whether a reply with that ID is to a query that was given up, and
// when that was sent. It is asked once for each.
func (t *inflight) late(id uint16) (sent int64, ok bool) {
	sent, ok = t.gone[id]
	delete(t.gone, id)
	return sent, ok
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
