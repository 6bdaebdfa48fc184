// SPDX-License-Identifier: Apache-2.0

package spaces

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/mountinfo"
	"sotto/internal/netns"
)

const (
	// maxCached limits the namespaces whose place is remembered.
	maxCached = 1024

	// retryAfter is how long a namespace that was not found is not searched again: a search
	// reads a file per process.
	retryAfter = time.Second
)

// ErrNotFound is the error for a namespace that has no name and no process that this
// process may inspect.
var ErrNotFound = errors.New("the network namespace of the client was not found: it has neither a name nor a process that Sotto may inspect")

// otherError means that a path leads to another namespace than expected. It is the link of that
// one, "net:[INODE]".
type otherError string

func (e otherError) Error() string { return "another network namespace: " + string(e) }

// Finder finds network namespaces by their cookies. It keeps none open: an open namespace would
// outlive its container. The zero value is empty. Its methods may be called concurrently.
type Finder struct {
	mu     sync.Mutex
	places map[uint32]place
}

// place is where a namespace was found, or until when it is not searched again.
type place struct {
	path string
	not  time.Time
}

// Do runs fn in the namespace with the cookie whose low half is given, on a thread of its own.
// pids returns the processes to search first. The error is [ErrNotFound] if the namespace was
// not found, otherwise that of fn.
func (n *Finder) Do(cookie uint32, pids func() []int, fn func() error) error {
	n.mu.Lock()
	known := n.places[cookie]
	n.mu.Unlock()
	if known.path != "" {
		if err := doAt(known.path, cookie, fn); !isElsewhere(err) {
			return err
		}
	} else if time.Now().Before(known.not) {
		return ErrNotFound
	}
	// A link is cheaper to read than to open. It is that of the moment: a process whose main
	// thread only visits a namespace may have left it when the link is followed. So a namespace
	// has been tried only if it was entered.
	tried := make(map[string]bool)
	for path := range candidates(pids) {
		if link, err := os.Readlink(path); err == nil && tried[link] {
			continue
		}
		err := doAt(path, cookie, fn)
		if other, ok := errors.AsType[otherError](err); ok {
			tried[string(other)] = true
		}
		if isElsewhere(err) {
			continue
		}
		n.remember(cookie, place{path: path})
		return err
	}
	n.remember(cookie, place{not: time.Now().Add(retryAfter)})
	return ErrNotFound
}

func (n *Finder) remember(cookie uint32, p place) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.places == nil || len(n.places) >= maxCached {
		n.places = make(map[uint32]place)
	}
	n.places[cookie] = p
}

// openError means that a namespace could not be opened or entered.
type openError struct{ error }

func isElsewhere(err error) bool {
	var other otherError
	var open openError
	return errors.As(err, &other) || errors.As(err, &open)
}

// doAt runs fn in the namespace at path if it has the cookie.
func doAt(path string, cookie uint32, fn func() error) error {
	ns, err := netns.OpenPath(path)
	if err != nil {
		return openError{err}
	}
	defer ns.Close()
	entered := false
	err = ns.Do(func() error {
		entered = true
		got, err := Cookie()
		if err == nil && uint32(got) != cookie {
			err = otherError(fmt.Sprintf("net:[%d]", ns.ID().Ino))
		}
		if err != nil {
			return err
		}
		return fn()
	})
	if err != nil && !entered {
		return openError{err}
	}
	return err
}

// candidates returns paths of namespaces: those of the given processes, those that have a name
// (which may be behind another mount), and those of all processes.
func candidates(pids func() []int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, pid := range pids() {
			if !yield(fmt.Sprintf("/proc/%d/ns/net", pid)) {
				return
			}
		}
		mounts, _ := mountinfo.Read()
		for _, m := range mounts {
			if m.Type == "nsfs" && !yield(m.Point) {
				return
			}
		}
		all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, path := range all {
			if !yield(path) {
				return
			}
		}
	}
}

// Cookie returns what bpf_get_netns_cookie returns in the calling thread's network namespace;
// 0 if the kernel does not support it (before Linux 5.14).
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}
