// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// namePrefix starts the name of every namespace and cgroup of a lab:
// sottolab-PID.PIDNS-N-NAME.
const namePrefix = "sottolab-"

// counter distinguishes the labs and cgroups of one process.
var counter atomic.Uint64

// Lab is a set of hosts and cgroups that are removed together. Its methods may be called
// concurrently.
type Lab struct {
	name string

	mu       sync.Mutex
	cleanups []func() error // run in reverse order by Close
}

// New creates an empty lab, after it has removed the labs of dead processes.
func New() (*Lab, error) {
	if err := removeLeftovers(); err != nil {
		return nil, err
	}
	return &Lab{name: fmt.Sprintf("%s%d%s-%d", namePrefix, os.Getpid(), pidNamespace(), counter.Add(1))}, nil
}

// Close removes everything in reverse order of creation. It is idempotent.
func (l *Lab) Close() error {
	l.mu.Lock()
	cleanups := l.cleanups
	l.cleanups = nil
	l.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(cleanups) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// onClose registers f to be run by Close.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanups = append(l.cleanups, f)
}
