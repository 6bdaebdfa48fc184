// SPDX-License-Identifier: Apache-2.0

// Package privdrop drops the privileges that a process no longer needs: capabilities, the
// ability to gain new ones, and system calls that a DNS daemon does not need. This applies
// to all threads and cannot be undone.
package privdrop

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Limits are the privileges that a process keeps.
type Limits struct {
	Keep []string // capabilities, such as "CAP_NET_ADMIN"; those that the process lacks are ignored
	Deny []uint32 // system calls that fail with EPERM, in addition to those in [Unused]

	// KeepBounding leaves the bounding set as it is. Dropping a capability from it stops all
	// threads, which takes about a quarter of a millisecond for each. The set applies only to
	// programs that the process executes, which [Unused] prevents.
	KeepBounding bool
}

// Apply drops all capabilities except those that l keeps, sets no_new_privs, and denies
// system calls, on all threads. The result is visible in /proc/PID/status.
func Apply(l Limits) error {
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); err != nil { // on all threads
		return fmt.Errorf("drop privileges: set no_new_privs: %w", err)
	}
	if err := filter(append(Unused(), l.Deny...)); err != nil {
		return fmt.Errorf("drop privileges: %w", err)
	}
	if err := dropCapabilities(l.Keep, l.KeepBounding); err != nil {
		return fmt.Errorf("drop privileges: drop capabilities: %w", err)
	}
	return nil
}

// dropCapabilities drops all capabilities except those in keep.
func dropCapabilities(keep []string, keepBounding bool) error {
	var kept []cap.Value
	for _, name := range keep {
		v, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		kept = append(kept, v)
	}
	have := cap.GetProc()
	if !keepBounding {
		if err := dropBounding(have, kept); err != nil {
			return err
		}
	}
	if err := cap.ResetAmbient(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	set := cap.NewSet()
	for _, v := range kept {
		has, err := have.GetFlag(cap.Permitted, v)
		if err != nil {
			return err
		}
		if has {
			if err := errors.Join(set.SetFlag(cap.Permitted, true, v), set.SetFlag(cap.Effective, true, v)); err != nil {
				return err
			}
		}
	}
	diff, err := have.Cf(set)
	if err == nil && diff == 0 {
		return nil // a filter of the service manager may refuse the call
	}
	// The same after AmbientCapabilities=, which are inheritable, too. Those apply only to programs that
	// the process executes, which Unused prevents.
	if again := set.SetProc(); err != nil || diff.Has(cap.Permitted) || diff.Has(cap.Effective) || !errors.Is(again, unix.EPERM) {
		return again
	}
	return nil
}

// dropBounding drops all capabilities except those in kept from the bounding set. Without
// CAP_SETPCAP the set stays as it is. It matters only for programs that the process executes,
// and no_new_privs prevents them from gaining anything.
func dropBounding(have *cap.Set, kept []cap.Value) error {
	allowed, err := have.GetFlag(cap.Effective, cap.SETPCAP)
	if err != nil || !allowed {
		return err
	}
	var errs []error
	for v := range cap.MaxBits() {
		if !slices.Contains(kept, v) {
			errs = append(errs, cap.DropBound(v))
		}
	}
	return errors.Join(errs...)
}

// Held returns the capabilities of the process in text form, for logs.
func Held() string { return cap.GetProc().String() }
