// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"sync"
)

// call is one query that waits for its reply. The query belongs to the caller of
// [Pool.Exchange] and is used only while the call is in a table.
type call struct {
	query []byte
	reply []byte
	err   error
	sent  int64         // in ticks
	done  chan struct{} // receives one value when reply or err is set
}

// calls reuses calls, so that a query needs no new channel.
var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// finish sets the result. It is called once, by the goroutine that removed the call from
// the table.
func (k *call) finish(reply []byte, err error) {
	k.reply, k.err = reply, err
	k.done <- struct{}{}
}

// free returns the call for reuse. No other reference to it may be left.
func (k *call) free() {
	k.query, k.reply, k.err = nil, nil, nil
	calls.Put(k)
}

// inflight is the table of the queries in flight on one connection. IDs are random, so
// that they reveal nothing about the number of queries and a forged reply has to guess
// them, and unique among the queries in flight.
//
// It also remembers the latest queries that were abandoned: replies to them are not
// strays, and show how slow the server is.
type inflight struct {
	calls     map[uint16]*call
	abandoned map[uint16]int64 // when they were sent, in ticks
	ids       *mrand.ChaCha8
	limit     int
}

// maxAbandoned limits the abandoned queries that are remembered. If there are more on one
// connection, they are likely lost rather than late.
const maxAbandoned = 1024

func newInflight(limit int) inflight {
	var seed [32]byte
	rand.Read(seed[:]) //nolint:errcheck // never fails since Go 1.24
	return inflight{calls: make(map[uint16]*call), abandoned: make(map[uint16]int64), ids: mrand.NewChaCha8(seed), limit: limit}
}

// add adds k and returns its ID. It reports false if the table is full.
func (t *inflight) add(k *call) (id uint16, ok bool) {
	if len(t.calls) >= t.limit {
		return 0, false
	}
	// The limit leaves most IDs free, so that few attempts are needed.
	for {
		id = uint16(t.ids.Uint64())
		if _, used := t.calls[id]; !used {
			delete(t.abandoned, id) // a late reply could be taken for the new query's
			t.calls[id] = k
			return id, true
		}
	}
}

// get returns the call with that ID, or nil.
func (t *inflight) get(id uint16) *call { return t.calls[id] }

// remove removes k, and reports whether it was in the table.
func (t *inflight) remove(id uint16, k *call) bool {
	if t.calls[id] != k {
		return false
	}
	delete(t.calls, id)
	return true
}

// abandon removes k, remembers that its reply may still arrive, and reports whether it
// was in the table.
func (t *inflight) abandon(id uint16, k *call) bool {
	if !t.remove(id, k) {
		return false
	}
	if len(t.abandoned) >= maxAbandoned {
		for old := range t.abandoned { // any
			delete(t.abandoned, old)
			break
		}
	}
	t.abandoned[id] = k.sent
	return true
}

// late reports whether a reply with that ID belongs to an abandoned query, and when that
// was sent. It does so once for each query.
func (t *inflight) late(id uint16) (sent int64, ok bool) {
	sent, ok = t.abandoned[id]
	delete(t.abandoned, id)
	return sent, ok
}

// removeAll removes and returns all calls.
func (t *inflight) removeAll() []*call {
	out := make([]*call, 0, len(t.calls))
	for _, k := range t.calls {
		out = append(out, k)
	}
	clear(t.calls)
	return out
}

func (t *inflight) len() int { return len(t.calls) }
