// SPDX-License-Identifier: Apache-2.0

package pathtest

import (
	"fmt"
	"slices"

	"sotto/intercept/cgroup"
	"sotto/internal/netns"
)

// maxNamespaces limits the network namespaces that are tested from one cgroup.
const maxNamespaces = 16

// namespace is a network namespace of processes in a sealed cgroup.
type namespace struct {
	*netns.NS
	pid int           // of a process in it; 0 for the host's
	has map[bool]bool // whether it has addresses of IPv4 (false) and IPv6 (true)
}

// findFamilies sets has. A family is assumed to exist if that cannot be found out.
func (n *namespace) findFamilies(link string) {
	n.has = map[bool]bool{false: true, true: true}
	_ = n.Do(func() error { // it fails again when the queries are sent
		for v6 := range n.has {
			if has, err := hasAddress(v6, link); err == nil {
				n.has[v6] = has
			}
		}
		return nil
	})
}

func (n namespace) isHost() bool { return n.pid == 0 }

// name names the namespace in reports.
func (n namespace) name() string {
	if n.isHost() {
		return ""
	}
	return fmt.Sprintf("net:[%d] of process %d", n.ID().Ino, n.pid)
}

// namespacesOf returns the host's network namespace and those of the processes in the cgroup
// dir and below, without those in excluded cgroups. It reports whether these are all. The
// caller closes them.
func namespacesOf(dir string, exclude []string) (all []namespace, complete bool, err error) {
	host, err := netns.Current()
	if err != nil {
		return nil, false, err
	}
	all = []namespace{{NS: host}}
	pids, err := sealedProcesses(dir, exclude)
	if err != nil {
		return all, false, err
	}
	for _, pid := range pids {
		ns, err := netns.OpenPath(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			continue // it exited
		}
		if slices.ContainsFunc(all, func(n namespace) bool { return n.ID() == ns.ID() }) {
			_ = ns.Close()
			continue
		}
		if len(all) == maxNamespaces {
			_ = ns.Close()
			return all, false, nil
		}
		all = append(all, namespace{NS: ns, pid: pid})
	}
	return all, true, nil
}

// sealedProcesses returns the processes in the cgroup dir and below that are not excluded.
func sealedProcesses(dir string, exclude []string) ([]int, error) {
	pids, err := cgroup.Processes(dir)
	if err != nil {
		return nil, err
	}
	skip := make(map[int]bool)
	for _, e := range exclude {
		excluded, err := cgroup.Processes(e)
		if err != nil {
			return nil, err
		}
		for _, pid := range excluded {
			skip[pid] = true
		}
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return skip[pid] }), nil
}

func closeAll(all []namespace) {
	for _, n := range all {
		_ = n.Close() // a read-only descriptor
	}
}
