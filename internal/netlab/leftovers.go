// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// pidNamespace returns the suffix of the PID in lab names. Cgroups are shared between PID
// namespaces, and whether a process is alive can be checked only in its own.
var pidNamespace = sync.OnceValue(func() string {
	link, err := os.Readlink("/proc/self/ns/pid") // pid:[4026531836]
	if err != nil {
		return ".unknown"
	}
	return "." + strings.Trim(link, "pid:[]")
})

// removeLeftovers removes the namespaces and cgroups of labs whose process has exited.
func removeLeftovers() error {
	names, err := netns.Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if isLeftover(name) {
			errs = append(errs, netns.Delete(name))
		}
	}
	if root, err := CgroupRoot(); err == nil {
		entries, err := os.ReadDir(root)
		errs = append(errs, err)
		for _, e := range entries {
			if isLeftover(e.Name()) {
				errs = append(errs, removeCgroup(root+"/"+e.Name()))
			}
		}
	}
	return errors.Join(errs...)
}

// isLeftover reports whether name belongs to a lab of an exited process of this PID
// namespace.
func isLeftover(name string) bool {
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
