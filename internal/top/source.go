// SPDX-License-Identifier: Apache-2.0

package top

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"sotto/internal/observe"
	"sotto/internal/status"
)

const (
	// interval is the time between two samples.
	interval = time.Second

	// statusTimeout limits a request for the status.
	statusTimeout = 5 * time.Second

	// maxLine limits a line of the trace in bytes: a name has at most 1,004 characters.
	maxLine = 64 << 10
)

// errTraceEnded means that the process has stopped, or that another one has taken over.
var errTraceEnded = errors.New("the trace has ended")

// Source reads a running Sotto. Its functions are called at the same time.
type Source struct {
	// Status returns the state.
	Status func(context.Context) (*status.Status, error)
	// Trace returns a stream of [observe.Record], one JSON object per line, which ends with the
	// context or the process. The caller closes it.
	Trace func(context.Context) (io.ReadCloser, error)
}

// counter counts the queries of a trace by workload and name, until they are taken.
type counter struct {
	mu    sync.Mutex
	names map[key]counts
	lost  uint64
	err   error // why there is no trace
}

// add counts a query that got a reply. Those that did not are not counted as queries elsewhere.
func (c *counter) add(r *observe.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost += r.Lost; r.Dropped != "" {
		return
	}
	if c.names == nil {
		c.names = map[key]counts{}
	}
	k := key{r.Workload, r.Name}
	if _, ok := c.names[k]; !ok && len(c.names) >= maxNames {
		if k.name = observe.Other; len(c.names) >= maxNames+maxOthers {
			k.group = observe.Other
		}
	}
	c.names[k] = c.names[k].plus(countsOfRecord(r))
}

// take returns the counts since the last call.
func (c *counter) take() (names map[key]counts, lost uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names, lost, err = c.names, c.lost, c.err
	c.names, c.lost = nil, 0
	return names, lost, err
}

func (c *counter) setErr(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// collect sends a sample every second until ctx ends.
func (s Source) collect(ctx context.Context, send func(Sample)) {
	var c counter
	var wg sync.WaitGroup
	wg.Go(func() { s.trace(ctx, &c) })
	defer wg.Wait()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var sample Sample
		sample.Status, sample.Err = s.status(ctx)
		sample.At = time.Now()
		sample.names, sample.lost, sample.traceErr = c.take()
		if ctx.Err() != nil {
			return
		}
		send(sample)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s Source) status(ctx context.Context) (*status.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return s.Status(ctx)
}

// trace counts the queries of the trace until ctx ends. It starts the trace again when it has
// ended, at most once per second.
func (s Source) trace(ctx context.Context, c *counter) {
	again := time.NewTicker(interval)
	defer again.Stop()
	for ctx.Err() == nil {
		c.setErr(s.traceOnce(ctx, c))
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

func (s Source) traceOnce(ctx context.Context, c *counter) error {
	body, err := s.Trace(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	c.setErr(nil)
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r observe.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("read the trace: %w", err)
		}
		c.add(&r)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the trace: %w", err)
	}
	return errTraceEnded
}
