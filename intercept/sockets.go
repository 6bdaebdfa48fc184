// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sotto/internal/netns"
)

// endPlainSockets ends the sockets of the workloads in groups that are connected to a
// nameserver since before there was a seal: their owners get ECONNABORTED, and connect again,
// sealed. What cannot be ended here the guard stops, so that a failure costs its client a
// wait, and nothing leaks.
func (i *Instance) endPlainSockets(groups []group) {
	dirs := directoriesOf(groups)
	spaces, err := i.workloadSpaces(groups)
	ended, err2 := endSocketsIn(spaces, func(s diagSocket) bool { return i.isPlain(s, dirs) })
	if err := errors.Join(err, err2); err != nil {
		i.cfg.Log.Warn("cannot end every socket that was connected to a nameserver before; what it sends is stopped, until its program connects again", "err", err)
	}
	if ended > 0 {
		i.cfg.Log.Info("ended sockets that were connected to nameservers before the seal", "sockets", ended)
	}
}

// workloadSpaces returns the network namespaces in which processes of the groups live, and
// the host's. The caller closes them, with endSocketsIn.
func (i *Instance) workloadSpaces(groups []group) ([]*netns.NS, error) {
	var s spaceSet
	errs := []error{s.add(fmt.Sprintf("/proc/self/fd/%d", i.network.home.Fd()))}
	for _, g := range groups {
		pids, err := procsBelow(g.Path)
		errs = append(errs, err)
		for _, pid := range pids {
			_ = s.add(fmt.Sprintf("/proc/%d/ns/net", pid)) // it exited, or lives where this process cannot look
		}
	}
	return s.spaces, errors.Join(errs...)
}

// endSocketsIn ends the sockets that match in each of the namespaces, and closes those.
func endSocketsIn(spaces []*netns.NS, match func(diagSocket) bool) (ended int, err error) {
	var errs []error
	for _, ns := range spaces {
		err := ns.Do(func() error {
			n, err := endSocketsHere(match)
			ended += n
			return err
		})
		errs = append(errs, err, ns.Close())
	}
	return ended, errors.Join(errs...)
}

// isPlain reports whether a socket of a workload in or below the directories is one that the
// hooks would have redirected to the listener, had they been there.
func (i *Instance) isPlain(s diagSocket, dirs []string) bool {
	remote := s.remote.Addr()
	if !slices.Contains(i.cfg.Ports, s.remote.Port()) || remote.IsUnspecified() || remote.IsLoopback() || remote.IsMulticast() ||
		inPrefixes(remote, i.cfg.Prefix4, i.cfg.Prefix6) {
		return false
	}
	path := i.workloads.path(s.cgroup)
	return path != "" && isWithin(i.workloads.root, path, dirs) && !isWithin(i.workloads.root, path, i.cfg.Exclude) &&
		!i.isSealedByOther(path)
}

// isSealedByOther reports whether a workload is a command that another instance seals.
func (i *Instance) isSealedByOther(path string) bool {
	all, err := i.exclusion().all()
	if err != nil {
		return false
	}
	for id := range all {
		if top := i.workloads.path(id); top != "" && (path == top || strings.HasPrefix(path, top+"/")) {
			return true
		}
	}
	return false
}

func inPrefixes(addr netip.Addr, prefixes ...netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.IsValid() && p.Contains(addr) })
}

// isWithin reports whether a workload is one of those named by their directories, or below
// one. root is where the hierarchy is mounted.
func isWithin(root, path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		top, ok := strings.CutPrefix(dir, root)
		return ok && (top == "" || path == top || strings.HasPrefix(path, top+"/"))
	})
}

// endVirtualSockets ends the sockets that are connected to virtual addresses of the
// prefixes, of workloads in or below the directories dirs, and of cgroups that were removed.
// It looks in every network namespace that this process can enter: those of all processes
// and threads, and those that have a name. Nothing may send to a virtual address after the
// instance that it was an address of.
func endVirtualSockets(w *workloads, dirs []string, prefixes ...netip.Prefix) (ended int, err error) {
	spaces, err := allSpaces()
	n, err2 := endSocketsIn(spaces, func(s diagSocket) bool {
		if !inPrefixes(s.remote.Addr(), prefixes...) {
			return false
		}
		path := w.path(s.cgroup)
		return path == "" || isWithin(w.root, path, dirs)
	})
	return n, errors.Join(err, err2)
}

// spaceSet collects network namespaces, each once.
type spaceSet struct{ spaces []*netns.NS }

// add opens the namespace at path, unless it is there already.
func (s *spaceSet) add(path string) error {
	ns, err := netns.OpenPath(path)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(s.spaces, func(have *netns.NS) bool { return have.ID() == ns.ID() }) {
		return ns.Close()
	}
	s.spaces = append(s.spaces, ns)
	return nil
}

// allSpaces returns the network namespaces of this machine that can be entered from here.
// The caller closes them, with endSocketsIn.
func allSpaces() ([]*netns.NS, error) {
	var s spaceSet
	errs := []error{s.add("/proc/thread-self/ns/net")}
	seen := make(map[string]bool) // by what a thread's link says, which is cheaper than to open each
	threads, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	errs = append(errs, err)
	for _, path := range threads {
		name, err := os.Readlink(path)
		if err != nil || seen[name] {
			continue // it exited, or lives where this process may not look
		}
		seen[name] = true
		_ = s.add(path)
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	errs = append(errs, err)
	for _, m := range parseMountinfo(data) {
		if m.fstype == "nsfs" && !seen[m.root] {
			_ = s.add(m.point) // of another kind, or hidden by another mount
		}
	}
	return s.spaces, errors.Join(errs...)
}
