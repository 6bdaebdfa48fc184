// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"errors"
	"sync"
	"sync/atomic"
)

// maxBuffer limits the bytes that wait for one output: a fraction of a second at full load.
const maxBuffer = 4 << 20

var errFull = errors.New("the buffer is full")

// buffer holds frames that wait to be written.
type buffer struct {
	full    atomic.Bool   // the last frame did not fit; there is no need to encode others
	wake    chan struct{} // has a value if there are frames
	written atomic.Uint64 // frames
	lost    atomic.Uint64

	mu     sync.Mutex
	frames []byte
	count  int
	spare  []byte // becomes frames next
}

func newBuffer() *buffer { return &buffer{wake: make(chan struct{}, 1)} }

// add copies a frame into the buffer, or counts it as lost.
func (b *buffer) add(frame []byte) {
	b.mu.Lock()
	if len(b.frames)+len(frame) > maxBuffer {
		b.full.Store(true)
		b.mu.Unlock()
		b.lost.Add(1)
		return
	}
	b.frames = append(b.frames, frame...)
	b.count++
	first := b.count == 1
	b.mu.Unlock()
	if first {
		b.signal()
	}
}

func (b *buffer) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take removes all frames. The caller passes them to done or restore.
func (b *buffer) take() (frames []byte, count int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	frames, count = b.frames, b.count
	b.frames, b.count, b.spare = b.spare[:0], 0, nil
	b.full.Store(false)
	return frames, count
}

// done counts the frames that take returned, and reuses their memory.
func (b *buffer) done(frames []byte, count int, err error) {
	if err != nil {
		b.lost.Add(uint64(count))
	} else {
		b.written.Add(uint64(count))
	}
	b.mu.Lock()
	b.spare = frames
	b.mu.Unlock()
}

// restore puts frames that take returned, and of which nothing was written, before all others.
// They are lost if there is no room.
func (b *buffer) restore(frames []byte, count int) {
	b.mu.Lock()
	if len(frames)+len(b.frames) > maxBuffer {
		b.mu.Unlock()
		b.done(frames, count, errFull)
		return
	}
	b.frames, b.spare = append(frames, b.frames...), b.frames
	b.count += count
	b.mu.Unlock()
	b.signal()
}
