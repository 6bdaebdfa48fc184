// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"sync"
	"time"

	"sotto/forwarder/dnssec/record"
)

// flights lets concurrent queries share the making of a node. There are at most as many as queries
// of clients in flight.
type flights struct {
	mu sync.Mutex
	m  map[record.Name]*flight
}

// flight is the making of one node.
type flight struct {
	done chan struct{}
	node *node // valid when done is closed; nil if there was no time
}

// join returns the flight of a name. The caller is its leader if there was none, and then calls
// leave.
func (fs *flights) join(name record.Name) (f *flight, leader bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.m[name]; f != nil {
		return f, false
	}
	if fs.m == nil {
		fs.m = make(map[record.Name]*flight)
	}
	f = &flight{done: make(chan struct{})}
	fs.m[name] = f
	return f, true
}

// leave ends a flight.
func (fs *flights) leave(name record.Name, f *flight, n *node) {
	fs.mu.Lock()
	delete(fs.m, name)
	fs.mu.Unlock()
	f.node = n
	close(f.done)
}

// wait waits until the flight ends. It returns an error if ctx or the time until is sooner.
func (f *flight) wait(ctx context.Context, until time.Time) error {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return context.DeadlineExceeded
	}
}
