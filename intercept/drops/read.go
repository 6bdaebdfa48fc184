// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// A flood of packets must not take a processor from those who answer queries: after a batch, or
// when there are no more, events wait for a moment.
const (
	batch = 256
	pause = 20 * time.Millisecond
)

// Reader reads the events of one ring buffer.
type Reader struct {
	// Events is the ring buffer.
	Events *ebpf.Map
	// Lost returns how many events did not fit into it until now.
	Lost func() (uint64, error)
	// Handle is called for each event, with the number of those before it that were lost since
	// the last call.
	Handle func(e Event, lost uint64)

	reported uint64 // of Lost
}

// Run reads events until ctx ends, and then returns nil. It may be called again afterwards.
func (r *Reader) Run(ctx context.Context) error {
	in, err := ringbuf.NewReader(r.Events)
	if err != nil {
		return fmt.Errorf("read what the kernel dropped: %w", err)
	}
	defer in.Close()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() }) // ends a blocked read
	defer stop()
	if r.reported, err = r.Lost(); err != nil {
		return err
	}
	var record ringbuf.Record
	for n := 1; ; n++ {
		err := in.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what the kernel dropped: %w", err)
		}
		if err := r.handle(record.RawSample); err != nil {
			return err
		}
		if n%batch != 0 && record.Remaining > 0 { // AvailableBytes would race with Close
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Reader) handle(record []byte) error {
	e, err := Decode(record)
	if err != nil {
		return err
	}
	lost, err := r.Lost()
	if err != nil {
		return err
	}
	r.Handle(e, lost-r.reported)
	r.reported = lost
	return nil
}
