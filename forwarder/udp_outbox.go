// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// maxSpare is the capacity of the list that is kept between two bursts.
	maxSpare = 1024

	// maxUnsent limits the replies that wait while the socket's buffer is full.
	maxUnsent = 16384

	// maxSendWait is how long replies wait for space in the socket's buffer, all those that
	// are written together. A network device sends what the buffer holds in less time.
	maxSendWait = 100 * time.Millisecond
)

// udpOutbox combines replies that are ready at the same time into one system call.
// The first goroutine writes its own reply and those that others add meanwhile.
//
// The TCP writer (tcp.go) and that of upstream connections combine writes too, but
// have only the exchange of two slices in common with this one: they write bytes
// instead of messages, in a goroutine of their own, and limit what waits differently.
type udpOutbox struct {
	batch   batch // used by the goroutine that writes
	mu      sync.Mutex
	pending []*udpMiss
	spare   []*udpMiss // the list that becomes pending next
	writing bool
	current []*udpMiss // those in batch
	waited  bool       // the write deadline is set for the current list
}

// init prepares o for a socket with that function.
func (o *udpOutbox) init(conn syscall.RawConn, setWriteDeadline func(time.Time) error) {
	o.batch.init(conn, false)
	o.batch.limitWait = func() {
		if !o.waited {
			o.waited = setWriteDeadline(time.Now().Add(maxSendWait)) == nil
		}
	}
	o.batch.refused = func(i int, err error) {
		m := o.current[i]
		m.f.cfg.dropped(&m.request, DropSend, err)
	}
}

// send writes m's reply, or leaves that to the goroutine that is writing. m is freed
// afterwards.
func (o *udpOutbox) send(m *udpMiss) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) >= maxUnsent {
		m.f.cfg.dropped(&m.request, DropSendQueue, nil)
		m.free() // UDP may lose packets: a blocked socket must not cost memory
		return
	}
	o.pending = append(o.pending, m)
	if o.writing {
		return
	}
	o.writing = true
	// Let goroutines run that are ready to send. That costs a single reply nothing,
	// and saves most system calls under load.
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
	o.waited = false
	for len(all) > 0 {
		n := min(len(all), udpBatch)
		for i, m := range all[:n] {
			o.batch.set(i, m.reply, &m.name, m.namelen, m.oob[:m.oobLen])
		}
		o.current = all[:n]
		o.batch.send(n)
		for _, m := range all[:n] {
			m.free()
		}
		all = all[n:]
	}
}
