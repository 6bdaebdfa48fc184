// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxNames limits the paths whose names are kept. It is above the number of workloads
	// that are counted separately.
	maxNames = 2048

	// maxName limits a name in bytes. Those of runtimes are below it.
	maxName = 512

	// maxQueue limits the paths that wait for a lookup. Others are looked up when their name is
	// wanted again.
	maxQueue = 256

	// refreshAfter is how long a name is used before it is looked up again: containers can be
	// renamed.
	refreshAfter = time.Minute

	// retryAfter is the same for a lookup that found nothing. The files of a pod may be created
	// after its first query.
	retryAfter = 5 * time.Second

	// lookupTime limits the time of a question to a runtime, which answers within milliseconds.
	lookupTime = 2 * time.Second
)

// Config says where a [Resolver] looks. The zero value is the default.
type Config struct {
	Root string       // directory in front of all paths; for tests
	Log  *slog.Logger // nil discards
}

// Resolver finds the names of workloads and keeps them. Its methods are safe for concurrent
// use.
type Resolver struct {
	cfg   Config
	queue chan string // paths to look up
	seen  chan string // paths of new workloads

	mu    sync.Mutex
	names map[string]*entry   // by path
	users map[string]struct{} // users with a lookup in progress
}

// entry is a name that is known, or was looked up in vain.
type entry struct {
	name    Name      // zero until the first lookup is complete
	fresh   time.Time // until then it is not looked up again
	pending bool      // it is in the queue or being looked up
	final   bool      // the path says everything
}

// New returns a resolver. It looks nothing up until Run.
func New(cfg Config) *Resolver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	return &Resolver{
		cfg: cfg, queue: make(chan string, maxQueue), seen: make(chan string, maxQueue),
		names: make(map[string]*entry), users: make(map[string]struct{}),
	}
}

// Name returns the name of the workload with the cgroup path. It does not wait: as long as the
// name is being looked up, and if the path says nothing, the result is zero.
func (r *Resolver) Name(path string) Name {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.names[path]
	if e == nil {
		e = r.add(path)
	}
	if !e.final && !e.pending && time.Now().After(e.fresh) {
		select {
		case r.queue <- path:
			e.pending = true
		default:
		}
	}
	return e.name
}

// add adds a path. If there are too many, another one is removed; which one is arbitrary. The
// caller holds r.mu.
func (r *Resolver) add(path string) *entry {
	if len(r.names) >= maxNames {
		for other := range r.names {
			delete(r.names, other)
			break
		}
	}
	e := new(entry)
	if c := Parse(path); c.ID == "" && c.Pod == "" {
		*e = entry{name: c.label(), final: true}
	}
	r.names[path] = e
	return e
}

// Arrived has the name of a new workload looked up, while its container exists. It takes a few
// nanoseconds, and does nothing if too many are waiting.
func (r *Resolver) Arrived(path string) {
	select {
	case r.seen <- path:
	default:
	}
}

// Run looks names up until ctx ends.
func (r *Resolver) Run(ctx context.Context) error {
	for {
		select {
		case path := <-r.seen:
			r.Name(path)
		case path := <-r.queue:
			r.start(ctx, path)
		case <-ctx.Done():
			return nil
		}
	}
}

// start looks one name up. Files of a user may be on a file system that does not respond, and
// then delay only the names of that user.
func (r *Resolver) start(ctx context.Context, path string) {
	c := Parse(path)
	if c.User == "" {
		r.finish(path, c, r.lookup(ctx, c))
		return
	}
	r.mu.Lock()
	_, busy := r.users[c.User]
	if !busy {
		r.users[c.User] = struct{}{}
	} else if e := r.names[path]; e != nil {
		e.pending = false // it is looked up when its name is wanted again
	}
	r.mu.Unlock()
	if busy {
		return
	}
	go func() {
		name := r.lookup(ctx, c)
		r.mu.Lock()
		delete(r.users, c.User)
		r.mu.Unlock()
		r.finish(path, c, name)
	}()
}

// finish stores the result of a lookup, which is "" if it found nothing.
func (r *Resolver) finish(path string, c Cgroup, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.names[path]
	if e == nil { // evicted
		return
	}
	e.pending = false
	switch {
	case name != "":
		e.name, e.fresh = c.with(name), time.Now().Add(refreshAfter)
	case e.name == Name{}:
		e.name, e.fresh = c.label(), time.Now().Add(retryAfter)
	default: // the container is gone: what it was called stays true
		e.fresh = time.Now().Add(retryAfter)
	}
}

// lookup returns the name of a container or pod, or "".
func (r *Resolver) lookup(ctx context.Context, c Cgroup) string {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var name string
	var err error
	switch c.Kind {
	case Docker:
		name, err = dockerName(ctx, r.cfg.Root, c)
	case Podman:
		name, err = podmanName(r.cfg.Root, c)
	case Pod:
		name, err = podName(system(r.cfg.Root), c)
	case Container:
		name, err = bundleName(system(r.cfg.Root), c.ID)
	}
	if len(name) > maxName { // users choose the names of their containers
		name = ""
	}
	if err != nil {
		r.cfg.Log.Debug("cannot find the name of a container", "kind", c.Kind, "id", c.ID, "err", err)
	}
	return name
}
