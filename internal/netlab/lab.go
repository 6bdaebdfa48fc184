// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// namePrefix starts the name of every namespace and cgroup of a lab:
// sottolab-PID.PIDNS-N-NAME.
const namePrefix = "sottolab-"

// pidNamespace ends the PID in those names: cgroups are shared between PID
// namespaces, and a number of another one says nothing about who lives.
var pidNamespace = sync.OnceValue(func() string {
	link, err := os.Readlink("/proc/self/ns/pid") // pid:[4026531836]
	if err != nil {
		return ".unknown"
	}
	return "." + strings.Trim(link, "pid:[]")
})

// counter keeps the labs and cgroups of one process apart.
var counter atomic.Uint64

// Lab is a set of hosts and cgroups that live and go together. Its methods may
// be called concurrently.
type Lab struct {
	name string

	mu     sync.Mutex
	closer []func() error // run in reverse by Close
}

// New makes an empty lab, after taking away what dead processes left of theirs.
func New() (*Lab, error) {
	if err := sweep(); err != nil {
		return nil, err
	}
	return &Lab{name: fmt.Sprintf("%s%d%s-%d", namePrefix, os.Getpid(), pidNamespace(), counter.Add(1))}, nil
}

// Close takes everything away, last made first. It is idempotent.
func (l *Lab) Close() error {
	l.mu.Lock()
	closers := l.closer
	l.closer = nil
	l.mu.Unlock()
	var errs []error
	for _, c := range slices.Backward(closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// onClose adds to what Close does.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closer = append(l.closer, f)
}

// Host is one machine of a lab: a namespace with its loopback up.
type Host struct {
	Name string    // as ip-netns knows it
	NS   *netns.NS // closed with the lab

	links *netns.Links
}

// Host adds a machine. The name needs to be unique in the lab only.
func (l *Lab) Host(name string) (*Host, error) {
	h := &Host{Name: l.name + "-" + name}
	var err error
	if h.NS, err = netns.New(h.Name); err != nil {
		return nil, err
	}
	l.onClose(func() error { return errors.Join(netns.Delete(h.Name), h.NS.Close()) })
	if h.links, err = h.NS.Links(); err != nil {
		return nil, err
	}
	l.onClose(h.links.Close)

	// A new namespace starts from its maker's settings for IPv4 and from the
	// defaults for IPv6; a lab is the same on every machine.
	if err := h.Sysctl(
		"net/ipv4/ip_forward", "0", "net/ipv4/conf/all/rp_filter", "0", "net/ipv4/conf/default/rp_filter", "0",
		"?net/ipv6/conf/all/disable_ipv6", "0", "?net/ipv6/conf/default/disable_ipv6", "0",
		"?net/ipv6/conf/all/accept_dad", "0", "?net/ipv6/conf/default/accept_dad", "0",
		"?net/ipv6/conf/default/accept_ra", "0",
	); err != nil {
		return nil, err
	}
	return h, h.links.Up("lo")
}

// Do runs fn inside the host, as netns.NS.Do does.
func (h *Host) Do(fn func() error) error { return h.NS.Do(fn) }

// Sysctl sets pairs of path below /proc/sys and value inside the host. A path
// that starts with a question mark may be missing on this kernel.
func (h *Host) Sysctl(pairs ...string) error {
	return h.Do(func() error {
		for i := 0; i+1 < len(pairs); i += 2 {
			path, optional := strings.CutPrefix(pairs[i], "?")
			err := os.WriteFile("/proc/sys/"+path, []byte(pairs[i+1]), 0)
			if err != nil && !(optional && errors.Is(err, os.ErrNotExist)) {
				return fmt.Errorf("set %s in %s: %w", path, h.Name, err)
			}
		}
		return nil
	})
}

// sweep takes away the namespaces and cgroups of labs whose process is gone.
func sweep() error {
	names, err := netns.Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if leftover(name) {
			errs = append(errs, netns.Delete(name))
		}
	}
	if root, err := CgroupRoot(); err == nil {
		entries, err := os.ReadDir(root)
		errs = append(errs, err)
		for _, e := range entries {
			if leftover(e.Name()) {
				errs = append(errs, removeCgroup(root+"/"+e.Name()))
			}
		}
	}
	return errors.Join(errs...)
}

// leftover tells whether name belongs to a lab of a process that is gone from this
// PID namespace.
func leftover(name string) bool {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return false
	}
	process, _, _ := strings.Cut(rest, "-")
	digits, ok := strings.CutSuffix(process, pidNamespace())
	if !ok {
		return false
	}
	pid, err := strconv.Atoi(digits)
	if err != nil || pid <= 1 {
		return false
	}
	return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
