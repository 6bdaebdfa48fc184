// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"runtime"
	"sync"
)

const (
	// maxSpare is how much room for replies is kept between two bursts.
	maxSpare = 1024

	// maxUnsent bounds the replies that wait for a socket that takes none.
	maxUnsent = 16384
)

// udpOutbox joins replies that are ready at the same time into one system call:
// the first to come writes, and goes on for those who came meanwhile.
type udpOutbox struct {
	batch   batch // of whoever writes
	mu      sync.Mutex
	pending []*udpMiss
	spare   []*udpMiss // room for the next ones
	writing bool
}

// send writes m's reply, or leaves it with whoever is writing, and frees m.
func (o *udpOutbox) send(m *udpMiss) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) >= maxUnsent {
		m.free() // UDP may lose: a socket that takes nothing must not cost memory
		return
	}
	o.pending = append(o.pending, m)
	if o.writing {
		return
	}
	o.writing = true
	// Let those go first who are ready to send: it costs a lone reply nothing, and
	// a busy moment most of its system calls.
	o.mu.Unlock()
	runtime.Gosched()
	o.mu.Lock()
	for len(o.pending) > 0 {
		all := o.pending
		o.pending, o.spare = o.spare, nil
		o.mu.Unlock()
		o.write(all)
		o.mu.Lock()
		if clear(all); cap(all) <= maxSpare {
			o.spare = all[:0]
		}
	}
	o.writing = false
}

// write sends the replies of all, batch by batch.
func (o *udpOutbox) write(all []*udpMiss) {
	for len(all) > 0 {
		n := min(len(all), udpBatch)
		for i, m := range all[:n] {
			o.batch.set(i, m.reply, &m.name, m.namelen, m.oob[:m.oobLen])
		}
		o.batch.send(n)
		for _, m := range all[:n] {
			m.free()
		}
		all = all[n:]
	}
}
