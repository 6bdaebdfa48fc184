// SPDX-License-Identifier: Apache-2.0

package spaces

import (
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sotto/intercept/cgroup"
)

const (
	// confirmAfter is how long a result is valid. Processes can enter and leave namespaces.
	confirmAfter = time.Minute

	// missingAfter is how long a namespace that was not found is not searched again. It is
	// usually that of a rootless container, which Sotto may not inspect.
	missingAfter = 10 * time.Second

	// maxOwners limits the results that are remembered.
	maxOwners = 4096
)

// Owners finds the workload on whose behalf a program asks in a network namespace that is not
// its own. dockerd opens the sockets of its embedded resolver (127.0.0.11) in the namespace of
// the container, so their cgroup is that of dockerd, but the query is the container's.
//
// The owner of a namespace is the cgroup of its oldest process. It stands in for the cgroup of
// the socket if no process of that cgroup is in the namespace, and a thread of one is in the
// host's. The second condition excludes containers that share a namespace: a process of one of
// them cannot pass for the other by moving to a namespace of its own.
//
// All methods may be called concurrently.
type Owners struct {
	finder *Finder
	paths  *cgroup.Paths
	home   namespaceID

	mu    sync.RWMutex
	known map[asker]owner

	searching sync.Mutex // held during a search; budget belongs to it
	budget    budget
}

// asker identifies the cgroup of a socket and the low half of the cookie of its network namespace.
type asker struct {
	cgroup uint64
	netns  uint32
}

// owner is the result of a search.
type owner struct {
	path  string // of the owner's cgroup; "": the socket's own cgroup is the workload, or it is not known
	until time.Time
}

// NewOwners returns an Owners. It must be called in the network namespace of the host. The
// caller keeps paths open while it calls Find.
func NewOwners(f *Finder, paths *cgroup.Paths) (*Owners, error) {
	home, err := currentNamespace()
	if err != nil {
		return nil, err
	}
	return &Owners{finder: f, paths: paths, home: home, known: make(map[asker]owner), budget: make(budget)}, nil
}

// Find returns the path of the cgroup that owns the network namespace with a cookie, whose low
// half is given, if a socket of the cgroup with the given ID asks on behalf of that cgroup.
// Otherwise, or if the owner is not known, it reports false. It searches processes at most once
// a minute for each pair, more often while the owner is not known; other calls allocate
// nothing and make no system call.
func (o *Owners) Find(cgroupID uint64, netns uint32) (path string, ok bool) {
	a := asker{cgroupID, netns}
	found, ok := o.get(a)
	if !ok {
		found = o.update(a)
	}
	return found.path, found.path != ""
}

// get returns a valid result.
func (o *Owners) get(a asker) (owner, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	found, ok := o.known[a]
	return found, ok && time.Now().Before(found.until)
}

// update searches, one search at a time, and remembers the result.
func (o *Owners) update(a asker) owner {
	o.searching.Lock()
	defer o.searching.Unlock()
	if found, ok := o.get(a); ok {
		return found
	}
	found := o.search(a)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.known) >= maxOwners {
		clear(o.known)
	}
	o.known[a] = found
	return found
}

// search searches, unless the subtree of the asking cgroup has used up its budget. o.searching is
// held.
func (o *Owners) search(a asker) owner {
	path := o.paths.Find(a.cgroup)
	now := time.Now()
	if path == "" || !o.budget.allow(path, now) {
		o.mu.RLock()
		defer o.mu.RUnlock()
		return owner{o.known[a].path, now.Add(retryAfter)} // a result from before stays
	}
	found, valid := o.ownerOf(path, a.netns)
	return owner{found, now.Add(valid)}
}

// ownerOf returns the path of the cgroup that owns a network namespace, or "" if the asking cgroup
// itself is the workload or the owner is not known, and how long the result is valid.
func (o *Owners) ownerOf(asking string, netns uint32) (path string, valid time.Duration) {
	pids, err := cgroup.ProcessesIn(filepath.Join(o.paths.Root(), asking))
	if err != nil {
		return "", retryAfter // removed
	}
	if !slices.ContainsFunc(pids, func(pid int) bool { return hasThreadIn(pid, o.home) }) {
		return "", confirmAfter
	}
	none := func() []int { return nil }
	// The namespace stays open during the search, so that its ID is not reused.
	valid = retryAfter
	err = o.finder.Do(netns, none, func() error {
		id, err := currentNamespace()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(pids, func(pid int) bool { return livesIn(pid, id) }) {
			valid = confirmAfter
			return nil
		}
		oldest := oldestIn(id)
		if oldest == 0 {
			return nil
		}
		if path, err = cgroup.Of(oldest); err == nil {
			valid = confirmAfter
		}
		return err
	})
	if errors.Is(err, ErrNotFound) {
		valid = missingAfter
	}
	return path, valid
}

// Prune forgets results that are no longer valid, such as those of namespaces and cgroups that
// were removed. A result in use is renewed by the next query.
func (o *Owners) Prune() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	for a, found := range o.known {
		if now.After(found.until) {
			delete(o.known, a)
		}
	}
}
