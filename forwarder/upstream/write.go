// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"runtime"
	"time"
)

// rouse has the writer look whether something is to be written.
func (c *conn) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends what waits, all of it at once: queries that come while a write is
// going on, or while others are about to be handed in, share a system call.
func (c *conn) write() error {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return nil
		}
		// Let those go first who are ready to send. It saves a busy moment most
		// of its writes.
		runtime.Gosched()
		if err := c.flush(false); err != nil {
			return err
		}
	}
}

// flush writes what waits, unless somebody else is at it. A query that is alone goes
// out in the goroutine that asks it, once: waking the writer would take longer than
// the write. What came meanwhile is the writer's.
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
		if cap(buf) <= 4*maxGather {
			c.spare = buf // a burst's buffer is not kept
		}
		if err != nil {
			return err
		}
		if once {
			break
		}
	}
	if !c.writing && len(c.out) > 0 {
		c.rouse()
	}
	return nil
}

// writeFrames sends queries, a TLS record for each (see [gather]).
func (c *conn) writeFrames(frames []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.silent)); err != nil {
		return err
	}
	for len(frames) > 0 {
		c.raw.hold()
		for gathered := 0; len(frames) > 0 && gathered < maxGather; {
			n := 2 + int(frames[0])<<8 + int(frames[1])
			if _, err := c.nc.Write(frames[:n]); err != nil {
				return silence(err)
			}
			frames, gathered = frames[n:], gathered+n
		}
		c.count.writes.Add(1) // before the replies can come
		if err := c.raw.flush(); err != nil {
			return silence(err)
		}
	}
	return nil
}
