// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sotto/internal/mountinfo"
	"sotto/internal/netns"
)

// Namespaces is a set of open network namespaces.
type Namespaces struct{ all []*netns.NS }

// AllNamespaces returns the network namespaces of this machine that the process can enter:
// those of all processes and threads, and those that have a name. The caller closes them.
// In case of an error the set contains those that were found.
func AllNamespaces() (*Namespaces, error) {
	s := &Namespaces{}
	errs := []error{s.add("/proc/thread-self/ns/net")}
	seen := make(map[string]bool) // links of threads: reading one is cheaper than opening it
	threads, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	errs = append(errs, err)
	for _, path := range threads {
		name, err := os.Readlink(path)
		if err != nil || seen[name] {
			continue // it exited, or is not accessible
		}
		seen[name] = true
		_ = s.add(path)
	}
	mounts, err := mountinfo.Read()
	errs = append(errs, err)
	for _, m := range mounts {
		if m.Type == "nsfs" && !seen[m.Root] {
			_ = s.add(m.Point) // fails for another kind of namespace, and behind another mount
		}
	}
	return s, errors.Join(errs...)
}

// ProcessNamespaces returns the network namespace ns and those of processes, without those
// that exited or are not accessible. The caller closes them; ns stays open.
func ProcessNamespaces(ns *netns.NS, pids []int) (*Namespaces, error) {
	s := &Namespaces{}
	err := s.add(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	for _, pid := range pids {
		_ = s.add(fmt.Sprintf("/proc/%d/ns/net", pid))
	}
	return s, err
}

// add opens the namespace at path, unless the set contains it.
func (s *Namespaces) add(path string) error {
	ns, err := netns.OpenPath(path)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(s.all, func(have *netns.NS) bool { return have.ID() == ns.ID() }) {
		return ns.Close()
	}
	s.all = append(s.all, ns)
	return nil
}

// Destroy destroys the sockets in all namespaces of the set for which match returns true.
// It returns how many it destroyed.
func (s *Namespaces) Destroy(match func(Socket) bool) (destroyed int, err error) {
	var errs []error
	for _, ns := range s.all {
		errs = append(errs, ns.Do(func() error {
			n, err := destroyHere(match)
			destroyed += n
			return err
		}))
	}
	return destroyed, errors.Join(errs...)
}

// Close closes all namespaces of the set.
func (s *Namespaces) Close() error {
	var errs []error
	for _, ns := range s.all {
		errs = append(errs, ns.Close())
	}
	s.all = nil
	return errors.Join(errs...)
}
