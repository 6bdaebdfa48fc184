// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"runtime"
	"time"

	"sotto/forwarder/wire"
)

// wakeWriter makes the writer check for frames to be written.
func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeLoop writes the pending frames, all of them at once: queries that are queued
// during a write, or are about to be queued, share a system call.
func (c *conn) writeLoop() error {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return nil
		}
		// Let goroutines that are ready to send queue their queries first. Under load
		// this saves most of the writes.
		runtime.Gosched()
		if err := c.flush(false); err != nil {
			return err
		}
	}
}

// flush writes the pending frames, unless another goroutine is writing. The only query
// in flight is written by the goroutine that sends it, with once set: waking the writer
// would take longer than the write. Frames that were queued meanwhile are left to the
// writer then.
func (c *conn) flush(once bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.writing && len(c.out) > 0 {
		buf := c.out
		c.out, c.spare, c.writing = c.spare[:0], nil, true
		c.mu.Unlock()
		err := c.writeFrames(buf)
		c.mu.Lock()
		c.writing = false
		if cap(buf) <= 4*maxGather { // free the buffer of a burst
			c.spare = buf
		}
		if err != nil {
			return err
		}
		if once {
			break
		}
	}
	if !c.writing && len(c.out) > 0 {
		c.wakeWriter()
	}
	return nil
}

// writeFrames sends queries, each in a TLS record of its own (see [gather]).
func (c *conn) writeFrames(frames []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.silentTimeout)); err != nil {
		return err
	}
	for len(frames) > 0 {
		c.raw.hold()
		for gathered := 0; len(frames) > 0 && gathered < maxGather; {
			n := wire.FrameHeaderLen + int(frames[0])<<8 + int(frames[1])
			if _, err := c.nc.Write(frames[:n]); err != nil {
				return silentIfDeadline(err)
			}
			frames, gathered = frames[n:], gathered+n
		}
		c.count.writes.Add(1) // before the replies can arrive
		if err := c.raw.flush(); err != nil {
			return silentIfDeadline(err)
		}
	}
	return nil
}
